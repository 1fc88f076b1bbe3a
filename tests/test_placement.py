"""Loading a CUDA module, placing a model on a card and beside it, giving the card back, losing it.

The cards are those of tests/fake/module.c: the CPU backend under a limit of memory and with faults,
so that a reply over a split must be the processor's own, bit for bit."""

import os
import re
import shutil
import subprocess
import time

import pytest

from zephd import Refused, Zephd

pytestmark = pytest.mark.daemon

ASK = dict(prompt=[5, 6, 7], logit_bias=[[2, -1e6]], seed=1, temperature=1, max_new_tokens=24,
           logprobs=2)
RESERVE = (512 + 192) << 20  # what zephd leaves free and what a card's backend keeps
PLENTY = RESERVE + (64 << 20)


@pytest.fixture(scope="module")
def on_processor(build, tiny):
    with Zephd(build, tiny, "--device", "cpu") as d, d.connect() as c:
        return reply(c)


@pytest.fixture
def fake(build, monkeypatch, tmp_path):
    """Sets the fake cards up; returns what starts a zephd on them."""
    monkeypatch.setenv("ZEPH_CUDA_MODULE", str((build / "tests/fake/fake-cuda.so").resolve()))
    monkeypatch.setenv("FAKE_LEDGER", str(tmp_path / "ledger"))

    def cards(*free, fault=None, names=("Card",)):
        monkeypatch.setenv("FAKE_CARDS", ",".join(
            f"{names[i % len(names)]} {i}:90:16000000000:{f}" for i, f in enumerate(free)))
        if fault:
            monkeypatch.setenv("ZEPH_FAULT", fault)
        else:
            monkeypatch.delenv("ZEPH_FAULT", raising=False)
        return tmp_path / "ledger"
    return cards


def reply(client):
    result = client.call("complete", **ASK)
    return result["tokens"], result["text"], result["logprobs"]


def device(client):
    client.call("model.load")  # waits until it is there
    return client.call("status")["device"]


def lines(ledger):
    return [line.split() for line in ledger.read_text().splitlines()]


def refused_start(build, model, *options):
    """Exit status and log of a zephd that does not come up."""
    run = subprocess.run([build / "daemon/zephd", "--model", model, "--socket",
                          model.parent / "refused.sock", *options],
                         capture_output=True, text=True, timeout=60)
    return run.returncode, run.stderr


# --- loading: each hindrance is one sentence, in status, in the log, and as the error of "cuda"

@pytest.fixture
def installed(build, tmp_path, monkeypatch):
    """Programs in a folder of their own, modules beside them, a driver of a chosen version."""
    folder = tmp_path / "installed" / "daemon"
    folder.mkdir(parents=True)
    shutil.copy2(build / "daemon/zephd", folder)
    monkeypatch.delenv("ZEPH_CUDA_MODULE", raising=False)

    def install(version=None, cards="Card:90:16000000000:8000000000", **modules):
        if version is not None:
            monkeypatch.setenv("LD_LIBRARY_PATH", str((build / "tests/fake").resolve()))
            monkeypatch.setenv("FAKE_CUDA_VERSION", str(version))
        monkeypatch.setenv("FAKE_CARDS", cards)
        for name, fake_name in modules.items():
            (folder / f"zeph-{name}.so").symlink_to((build / "tests/fake" / f"{fake_name}.so").resolve())
        return folder.parent
    return install


HINDRANCES = [
    (dict(), r"there is no NVIDIA driver on this machine \(libcuda\.so\.1 was not found\)"),
    (dict(version=11080, cuda13="fake-cuda"),
     r"the NVIDIA driver is too old: it serves CUDA 11\.8, wanted 12\.0 \(driver 525\) or newer"),
    (dict(version=0), r"the NVIDIA driver does not tell its version"),
    (dict(version=13000), r"the CUDA module zeph-cuda13\.so is missing: "),
    (dict(version=12040, cuda13="fake-cuda"), r"the CUDA module zeph-cuda12\.so is missing: "),
    (dict(version=13000, cuda13="fake-cuda-other"),
     r"\S+zeph-cuda13\.so is of another version of zeph: its interface is 99, wanted \d+"),
    (dict(version=13000, cuda13="fake-cuda", cards=""),
     r"there is no NVIDIA card in this machine"),
    (dict(version=13000, cuda13="fake-cuda", cards="error"),
     r"the NVIDIA cards cannot be used: the driver and its kernel module differ in version"),
    (dict(version=13000, cuda13="fake-cuda", cards="Old:61:8000000000:8000000000"),
     r"card 0 \(Old, sm_61\) is too old for this module, which needs sm_75 or newer"),
    (dict(version=13010, cuda13="libcuda.so"),
     r"the CUDA module does not load: .*"),
]


@pytest.mark.parametrize("setup, sentence", HINDRANCES, ids=[h[1][:40] for h in HINDRANCES])
def test_what_hinders_the_card_is_told(build, tiny, installed, on_processor, setup, sentence):
    if shutil.which("nvidia-smi") and not setup:
        pytest.skip("this machine has a driver")
    home = installed(**setup)
    if setup.get("cuda13") == "libcuda.so":  # a file that is no library at all
        (home / "daemon/zeph-cuda13.so").unlink()
        (home / "daemon/zeph-cuda13.so").write_bytes(b"not a library")
    with Zephd(home, tiny) as d, d.connect() as c:
        at = device(c)
        assert at["kind"] == "cpu" and at["layers_on_device"] == at["layers"]
        assert re.fullmatch("on the processor: " + sentence + r".*", at["note"])
        assert at["note"] in d.log()
        assert reply(c) == on_processor
    code, said = refused_start(home, tiny, "--device", "cuda")
    assert code == 78 and re.search("device cuda: " + sentence, said)


def test_a_newer_driver_loads_the_older_module_for_an_older_card(build, tiny, installed):
    home = installed(13000, "Old:61:8000000000:8000000000", cuda13="fake-cuda",
                     cuda12="fake-cuda-old")
    with Zephd(home, tiny) as d, d.connect() as c:
        assert device(c)["isa"] == "sm_61" and device(c)["note"] is None


def test_an_older_driver_loads_the_older_module(build, tiny, installed):
    home = installed(12020, cuda12="fake-cuda-old")
    with Zephd(home, tiny) as d, d.connect() as c:
        assert device(c)["kind"] == "cuda"


def test_a_card_is_asked_for_by_number(build, tiny, fake):
    fake(PLENTY, PLENTY + 1, PLENTY)
    for option, name in (("auto", "Card 1"), ("cuda", "Card 1"), ("cuda:2", "Card 2")):
        with Zephd(build, tiny, "--device", option) as d, d.connect() as c:
            assert device(c)["name"] == name
    code, said = refused_start(build, tiny, "--device", "cuda:3")
    assert code == 78 and "device cuda:3: there is no card 3: this machine has 3, from 0" in said


# --- placement

def test_layers_go_where_they_fit_and_replies_do_not_change(build, tiny, fake, on_processor):
    seen = {}
    for free in range(RESERVE, RESERVE + (4 << 20), 128 << 10):
        ledger = fake(free)
        with Zephd(build, tiny, config="engine = { prefill_tokens = 64; };\n") as d, \
                d.connect() as c:
            at = device(c)
            layers = at["layers_on_device"] if at["kind"] == "cuda" else 0
            assert reply(c) == on_processor
            assert layers >= max(seen, default=0), "more memory holds no fewer layers"
            if layers == at["layers"]:
                assert at["note"] is None
                break
            if layers == 0:
                assert re.search(r"on the processor: Card 0 has 0\.7\d GB free, and not one layer "
                                 r"fits; the whole model needs 0\.7\d GB", at["note"])
            else:
                assert at["note"] == (f"{layers} of {at['layers']} layers on Card 0, the first "
                                      f"{at['layers'] - layers} on the processor: the card had "
                                      "0.74 GB free, the whole model needs 0.74 GB")
                assert at["note"] in d.log()
            seen[layers] = at
        assert int(lines(ledger)[-1][3]) <= free - (512 << 20), "the reserve was left free"
    assert layers == at["layers"] and set(seen) == set(range(at["layers"]))


def test_layers_by_hand(build, tiny, fake, on_processor):
    fake(PLENTY)
    with Zephd(build, tiny, config="model = { gpu_layers = 1; };\n") as d, d.connect() as c:
        at = device(c)
        assert at["kind"] == "cuda" and at["layers_on_device"] == 1
        assert at["note"].endswith("model.gpu_layers is 1")
        assert reply(c) == on_processor
    with Zephd(build, tiny, config="model = { gpu_layers = 0; };\n") as d, d.connect() as c:
        at = device(c)
        assert at["kind"] == "cpu" and at["note"] == "on the processor: model.gpu_layers is 0"


def test_want_of_memory_that_no_sum_foresaw_costs_layers_and_nothing_else(
        build, tiny, fake, on_processor):
    for fault, least in (("put:2", 1), ("alloc:25", 1), ("put:9", 1)):
        ledger = fake(PLENTY, fault=fault)
        with Zephd(build, tiny) as d, d.connect() as c:
            at = device(c)
            assert at["kind"] == "cuda" and least <= at["layers_on_device"] < at["layers"]
            assert reply(c) == on_processor
        assert lines(ledger)[-1][:3] == ["free", "0", "0"]


def test_what_the_card_cannot_run_the_processor_does(build, tiny, fake, on_processor):
    fake(PLENTY, fault="refuse:1")
    with Zephd(build, tiny) as d, d.connect() as c:
        at = device(c)
        assert at["kind"] == "cpu" and reply(c) == on_processor
        assert at["note"] == ("on the processor: Card 0: tensor rope: the cuda backend does not run "
                              "type f32")
    code, said = refused_start(build, tiny, "--device", "cuda")
    assert code == 78 and "the cuda backend does not run type f32" in said


def test_a_card_that_holds_nothing_is_an_error_where_it_was_asked_for(build, tiny, fake):
    fake(RESERVE)
    code, said = refused_start(build, tiny, "--device", "cuda")
    assert code == 78
    assert "device cuda: Card 0 has 0.74 GB free, and not one layer fits; the whole model" in said


# --- what keys and values cost

def test_keys_and_values_of_eight_bits(build, tiny, fake, tmp_path):
    """34 bytes for 32 elements: so many more pages. A model whose heads no block fits is refused."""
    fake(PLENTY)
    model = tmp_path / "model.gguf"
    subprocess.run([build / "engine/zeph-mkmodel", "--shape", "mistral-tiny", "--type", "q8_0",
                    "--seed", "1", model], check=True)
    pages = {}
    for kv_type in ("f16", "q8_0"):
        config = f'engine: {{ kv_type = "{kv_type}"; kv_bytes = 870400; }};'
        for where in ("auto", "cpu"):
            with Zephd(build, model, "--device", where, config=config) as d, d.connect() as c:
                assert reply(c)[0]
                status = c.call("status")
                assert status["kv"]["type"] == kv_type
                pages[kv_type, where] = status["kv"]["pages"]
    assert set(pages.values()) == {53, 100} and pages["q8_0", "auto"] == pages["q8_0", "cpu"] == 100

    config = tmp_path / "q8.conf"
    config.write_text('engine: { kv_type = "q8_0"; };')
    status, log = refused_start(build, tiny, "--config", str(config))
    assert status == 78
    assert ("keys and values of type q8_0: this model's heads have 16 elements, wanted a multiple "
            "of 32") in log


def test_cublaslt_is_counted_and_told(build, tiny, fake, on_processor):
    """128 MiB of the card beyond the exact backend's; what hinders it stands in the note."""
    config = "engine: { exact = false; };"
    for free, kind_exact in ((PLENTY, ("cpu", True)), (PLENTY + (128 << 20), ("cuda", False))):
        fake(free)
        with Zephd(build, tiny) as d, d.connect() as c:
            assert device(c)["exact"] is True and device(c)["layers_on_device"] == 2
        with Zephd(build, tiny, config=config) as d, d.connect() as c:
            at = device(c)
            assert (at["kind"], at["exact"]) == kind_exact
            assert reply(c) == on_processor
    fake(PLENTY, fault="nocublaslt:1")
    with Zephd(build, tiny, config=config) as d, d.connect() as c:
        at = device(c)
        assert at["exact"] is True and at["note"] == "no cuBLASLt here" and at["note"] in d.log()


# --- giving the card back

def test_unload_gives_all_back_and_the_next_request_loads_again(build, tiny, fake, on_processor):
    ledger = fake(PLENTY)
    with Zephd(build, tiny) as d, d.connect() as c, d.connect() as other:
        first = device(c)
        assert first["used_bytes"] > 0
        assert c.call("model.unload") == {"state": "unloaded"}
        assert lines(ledger)[-1][:3] == ["free", "0", "0"]
        status = c.call("status")
        assert status["state"] == "unloaded" and status["error"] is None
        assert status["device"]["used_bytes"] == 0 and status["device"]["layers_on_device"] == 0
        assert status["kv"]["pages"] == 0
        assert c.call("model.unload") == {"state": "unloaded"}
        # what needs no device does not load it
        assert c.call("tokenize", text="a b")["tokens"] and c.call("hello")["model"]
        assert c.call("status")["state"] == "unloaded"
        number = c.send("complete", stream=True, **ASK)
        result = c.wait(number)
        assert (result["tokens"], result["text"], result["logprobs"]) == on_processor
        phases = [p[0]["phase"] for m, p in c.notifications if m == "progress"]
        assert "loading" in phases and phases.index("loading") < len(phases) - 1
        assert c.call("status")["device"] == first
        assert c.call("model.unload") == {"state": "unloaded"}
        # several at once: one load
        waiting = [x.send("complete", **ASK) for x in (c, other) for _ in range(2)]
        for x, n in zip((c, c, other, other), waiting):
            assert x.wait(n)["tokens"] == on_processor[0]
        assert c.call("model.load") == {"state": "ready"}
        assert [line[0] for line in lines(ledger)] == ["new", "free"] * 2 + ["new"]
        assert d.stop() == 0
    assert lines(ledger)[-1][:3] == ["free", "0", "0"]


def test_unload_cancels_what_runs_and_says_why(build, tiny, fake):
    fake(PLENTY)
    with Zephd(build, tiny) as d, d.connect() as c, d.connect() as admin:
        c.call("model.load")
        number = c.send("complete", stream=True, **{**ASK, "max_new_tokens": 2000})
        while c.receive()[1] != "token":
            pass
        assert admin.call("model.unload") == {"state": "unloaded"}
        with pytest.raises(Refused, match=r"^E_CANCELLED: uid \d+ unloads the model$"):
            c.wait(number)
        assert d.stop() == 0


def test_unload_while_it_loads(build, tiny, fake):
    for _ in range(5):
        ledger = fake(PLENTY)
        with Zephd(build, tiny) as d, d.connect() as c, d.connect() as other:
            number = other.send("complete", **ASK)
            other.send("status")
            assert c.call("model.unload") == {"state": "unloaded"}
            try:
                other.wait(number)
            except Refused as e:
                assert str(e).startswith("E_CANCELLED: uid ")
            assert c.call("complete", **ASK)["tokens"] and c.call("tokenize", text="a")["tokens"]
            assert d.stop() == 0
        assert lines(ledger)[-1][:3] == ["free", "0", "0"]


def test_only_class_manage_may(build, tiny, fake):
    if os.geteuid() != 0:
        pytest.skip("becoming another uid needs root")
    fake(PLENTY)
    with Zephd(build, tiny, config='socket = { mode = "0666"; };\n') as d:
        d.directory.chmod(0o755)
        asked = subprocess.run(
            [build / "client/zephctl", "--socket", d.socket, "unload"], user=65533, group=65533,
            extra_groups=[], capture_output=True, text=True, timeout=30)
        assert asked.returncode == 4
        assert asked.stderr == "zephctl: E_PERMISSION: uid 65533 is not in class manage\n"


def test_zephctl_unloads_and_loads(build, tiny, fake):
    fake(PLENTY)
    with Zephd(build, tiny) as d:
        for command, state in (("load", "ready"), ("unload", "unloaded"), ("unload", "unloaded"),
                               ("load", "ready")):
            run = subprocess.run([build / "client/zephctl", "--socket", d.socket, command],
                                 capture_output=True, text=True, timeout=30, check=True)
            assert run.stdout == f"{state}\n"
        run = subprocess.run([build / "client/zephctl", "--socket", d.socket, "--json", "unload"],
                             capture_output=True, text=True, timeout=30, check=True)
        assert run.stdout == '{"state":"unloaded"}\n'


def wait_state(client, state, seconds=20):
    end = time.monotonic() + seconds
    while client.call("status")["state"] != state:
        assert time.monotonic() < end, client.call("status")
        time.sleep(0.05)


def test_an_idle_model_is_unloaded(build, tiny, fake):
    ledger = fake(PLENTY)
    with Zephd(build, tiny, config="model = { idle_seconds = 1; };\n") as d, d.connect() as c:
        began = time.monotonic()
        c.call("model.load")
        for _ in range(4):  # in use: it stays
            time.sleep(0.4)
            c.call("complete", prompt=[5], max_new_tokens=1)
        assert [line[0] for line in lines(ledger)] == ["new"] and time.monotonic() - began > 1.5
        wait_state(c, "unloaded")
        assert "no request for 1 seconds" in d.log()
        assert lines(ledger)[-1][:3] == ["free", "0", "0"]
        assert c.call("complete", prompt=[5], max_new_tokens=1)["tokens"]
        wait_state(c, "unloaded")


def test_a_card_that_is_taken_meanwhile_is_no_end(build, tiny, fake):
    fake(PLENTY, fault="alloc:40")  # of the process: in the second load
    with Zephd(build, tiny, "--device", "cuda",
               config="model = { gpu_layers = 1; };\n") as d, d.connect() as c:
        for _ in range(4):
            c.call("model.unload")
            try:
                c.call("model.load")
            except Refused as e:
                assert re.match(r"E_MODEL: device cuda: Card 0: .*out of memory: \d+ bytes wanted, "
                                r"\d+ free", str(e))
                status = c.call("status")
                assert status["state"] == "unloaded" and "out of memory" in status["error"]
                break
        else:
            pytest.fail("no load failed")
        assert c.call("complete", prompt=[5], max_new_tokens=1)["tokens"]  # tries again
        assert c.call("status")["error"] is None


def test_a_file_that_changed_is_not_taken_for_the_old_one(build, tiny, fake, tmp_path):
    fake(PLENTY)
    model = tmp_path / "model.gguf"
    shutil.copy(tiny, model)
    with Zephd(build, model) as d, d.connect() as c:
        c.call("model.load")
        c.call("model.unload")
        os.utime(model, (1, 1))
        with pytest.raises(Refused, match="E_MODEL: model.gguf has changed since"):
            c.call("complete", **ASK)
        assert c.call("status")["state"] == "unloaded"


# --- losing the card

def test_a_lost_card_is_told_to_all_and_the_engine_starts_anew(build, tiny, fake, on_processor):
    ledger = fake(PLENTY, fault="sticky:20,once:1")
    with Zephd(build, tiny) as d, d.connect() as c:
        numbers = [c.send("complete", **ASK) for _ in range(3)]
        for number in numbers:
            with pytest.raises(Refused, match=r"^E_ENGINE: .*(illegal memory|the device (has )?failed)"):
                c.wait(number)
        assert reply(c) == on_processor
        assert c.call("status")["state"] == "ready"
        assert "the device failed: an illegal memory access was encountered" in d.log()
        assert [line[0] for line in lines(ledger)] == ["new", "free", "new"]
        assert d.stop() == 0


def test_a_card_that_is_lost_again_and_again_ends_the_daemon(build, tiny, fake):
    fake(PLENTY, fault="sticky:5")
    with Zephd(build, tiny) as d:
        for _ in range(4):
            with d.connect() as c:
                with pytest.raises(Refused, match="^E_ENGINE: "):
                    c.call("complete", **ASK)
        assert d.process.wait(20) == 1
        assert "the device fails again and again" in d.log()
