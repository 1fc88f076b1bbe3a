"""The CUDA modules as they were built, on a machine without a card: what is in them, what the
compiler said of their kernels, and what zephd says where there is no driver for them."""

import ctypes
import os
import pathlib
import re
import shutil
import subprocess

import pytest

import cuda_report
from cuda_report import Limit
from zephd import Zephd

pytestmark = pytest.mark.cuda

ARCHS = {"13": "sm_75 sm_80 sm_86 sm_89 sm_90", "12": "sm_61 sm_70 sm_75 sm_80 sm_90"}

# What each family of kernels takes today and a little more: a kernel that grows past it has to be
# looked at. 255 registers are all that blocks of 256 threads may have. 13 is nvcc's, 12 clang's.
LIMITS = {
    "13": [
        Limit("matmul_split", 168, 0),
        Limit("matmul_mixed", 128, 0),
        Limit("matmul_wide", 255, 0),
        Limit("matmul_(int8|plain)", 128, 0),
        Limit("attention", 192, 0),
        Limit("pack", 176, 0),  # once, while a model loads
        Limit("sample|matmul_f32", 64, 0),
        Limit("", 48, 0),
    ],
    "12": [
        Limit("matmul_wide", 255, 40),
        Limit("matmul_(split|mixed|int8|plain)", 255, 0),
        Limit("attention", 216, 0),  # one block of 256 threads: 255 would do
        Limit("sample", 72, 0),
        Limit("pack|matmul_f32", 104, 0),
        Limit("", 48, 0),
    ],
}


@pytest.fixture(scope="module")
def folder():
    return pathlib.Path(os.environ["ZEPH_CUDA_BUILD"]) / "kernels/cuda"


@pytest.fixture(scope="module", params=["13", "12"])
def version(request):
    return request.param


@pytest.fixture(scope="module")
def module(folder, version):
    return folder / f"zeph-cuda{version}.so"


class Module(ctypes.Structure):
    _fields_ = [("abi", ctypes.c_uint32), ("toolkit", ctypes.c_uint32),
                ("arch_names", ctypes.c_char_p), ("cards", ctypes.c_void_p),
                ("backend_new", ctypes.c_void_p)]


def test_the_table_is_found_by_name(module, version):
    table = Module.in_dll(ctypes.CDLL(str(module)), "zeph_cuda_module")
    header = (pathlib.Path(__file__).parent.parent / "kernels/cuda/module.h").read_text()
    assert table.abi == int(re.search(r"CUDA_MODULE_ABI\s+(\d+)", header).group(1))
    assert table.toolkit // 1000 == int(version)
    assert table.arch_names.decode() == ARCHS[version]
    assert table.cards and table.backend_new


def test_it_exports_one_symbol_and_needs_the_c_library_alone(module):
    symbols = subprocess.run(["nm", "-D", "--defined-only", module], check=True, text=True,
                             capture_output=True).stdout.split()
    assert symbols[2::3] == ["zeph_cuda_module"]
    dynamic = subprocess.run(["readelf", "-d", module], check=True, text=True,
                             capture_output=True).stdout
    needed = set(re.findall(r"NEEDED.*\[(\S+?)\.so", dynamic))
    assert needed <= {"libc", "libm", "libdl", "librt", "libpthread", "ld-linux-x86-64"}
    assert "RUNPATH" not in dynamic and "RPATH" not in dynamic


def reports(folder, version):
    return {path.name: cuda_report.parse(path.read_text())
            for path in sorted(folder.glob(f"*-{version}.report"))}


def test_every_kernel_is_built_for_every_architecture(folder, version):
    kernels = [k for r in reports(folder, version).values() for k in r]
    assert kernels
    archs = {}
    for k in kernels:
        archs.setdefault(k.name, set()).add(k.arch)
    assert set.union(*archs.values()) == set(ARCHS[version].split())


def test_registers_and_spills_keep_to_the_limits(folder, version):
    excesses = [e for r in reports(folder, version).values()
                for e in cuda_report.excesses(r, LIMITS[version])]
    assert excesses == []


def test_no_limit_is_there_for_nothing(folder, version):
    kernels = [k for r in reports(folder, version).values() for k in r]
    used = [cuda_report.limit_of(k, LIMITS[version]) for k in kernels]
    assert [limit for limit in LIMITS[version] if limit not in used] == []


@pytest.mark.parametrize("driver, sentence", [
    (None, r"there is no NVIDIA driver on this machine \(libcuda\.so\.1 was not found\)"),
    (11040, r"the NVIDIA driver is too old: it serves CUDA 11\.4, wanted 12\.0 .*"),
    (12020, r"(the NVIDIA cards cannot be used: CUDA: .+|there is no NVIDIA card in .+)"),
    (13000, r"(the NVIDIA cards cannot be used: CUDA: .+|there is no NVIDIA card in .+)"),
])
def test_zephd_beside_them_runs_on_the_processor_and_says_why(
        build, folder, tiny, tmp_path, monkeypatch, driver, sentence):
    if driver is None and shutil.which("nvidia-smi"):
        pytest.skip("this machine has a driver")
    home = tmp_path / "daemon"
    home.mkdir()
    shutil.copy2(build / "daemon/zephd", home)
    for path in folder.glob("zeph-cuda*.so"):
        (home / path.name).symlink_to(path.resolve())
    if driver is not None:
        monkeypatch.setenv("LD_LIBRARY_PATH", str((build / "tests/fake").resolve()))
        monkeypatch.setenv("FAKE_CUDA_VERSION", str(driver))
    with Zephd(tmp_path, tiny) as d, d.connect() as c:
        c.call("model.load")
        at = c.call("status")["device"]
        assert at["kind"] == "cpu"
        assert re.fullmatch("on the processor: " + sentence, at["note"])
        assert at["note"] in d.log()
