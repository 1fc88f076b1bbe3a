"""The reader of the compiler's report sees what it is there to see."""

import pytest

import cuda_report
from cuda_report import Kernel, Limit

NVCC = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z5firstPf' for 'sm_90'
ptxas info    : Function properties for _Z5firstPf
    48 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 168 registers, used 1 barriers, 48 bytes cumulative stack size, 4096 bytes smem
ptxas info    : Compile time = 12.5 ms
ptxas info    : Compiling entry function '_Z6secondPf' for 'sm_75'
ptxas info    : Function properties for _Z6secondPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 24 registers, used 0 barriers, 384 bytes cmem[0]
"""


def test_kernels_are_read():
    assert cuda_report.parse(NVCC) == [Kernel("_Z5firstPf", "sm_90", 168, 48, 20, 4096),
                                       Kernel("_Z6secondPf", "sm_75", 24, 0, 0, 0)]
    assert cuda_report.parse("ptxas info    : 0 bytes gmem\n") == []


@pytest.mark.parametrize("missing", ["    48 bytes stack frame, 8 bytes spill stores, 12 bytes",
                                     "ptxas info    : Used 168", "ptxas info    : Used 24"])
def test_a_damaged_report_is_an_error(missing):
    text = "\n".join(line for line in NVCC.splitlines() if not line.startswith(missing))
    with pytest.raises(ValueError, match="is told|are told"):
        cuda_report.parse(text)


def test_limits():
    kernels = cuda_report.parse(NVCC)
    assert cuda_report.excesses(kernels, [Limit("", 168, 20)]) == []
    assert cuda_report.excesses(kernels, [Limit("", 167, 19)]) == [
        "_Z5firstPf on sm_90: 168 registers, limit 167",
        "_Z5firstPf on sm_90: 20 bytes spilled, limit 19"]
    assert cuda_report.excesses(kernels, [Limit("first", 255, 99, "sm_90"),
                                          Limit("", 23, 0)]) == [
        "_Z6secondPf on sm_75: 24 registers, limit 23"]
    with pytest.raises(ValueError, match="no limit for _Z6secondPf on sm_75"):
        cuda_report.excesses(kernels, [Limit("first", 255, 99)])
