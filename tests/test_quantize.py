"""Quantising: at load time, by zephctl quantize, by zeph-quantize, against llama.cpp and the package gguf.

quantize.json holds what llama.cpp does (tests/golden/make_quantize.py says how it was made)."""

import json
import os
import signal
import subprocess
import time

import gguf
import numpy as np
import pytest

import divergence
import quantize_measures as measures
from zephd import Zephd

STORAGE = {"general.file_type", "general.quantization_version", "general.alignment"}
UNSEARCHED = ["q8_0", "q4_0", "q4_1", "q5_0", "q5_1"]
# The mean KL of the cpu backend from the reference where no file of llama.cpp sets the bar.
BARS = {"bf16": 2e-4, "f16": 1e-5, "f32": 1e-5}


@pytest.fixture(scope="module")
def golden():
    return json.loads((measures.GOLDEN / "quantize.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("quantize")


def quantize(build, source, path, mix, *options, check=0, **arguments):
    done = subprocess.run([build / "engine/zeph-quantize", source, path, "--type", mix, *options],
                          capture_output=True, text=True, timeout=600, check=False, **arguments)
    assert done.returncode == check, done
    return done.stderr


@pytest.fixture(scope="module")
def sources(build, model, folder):
    """The default model in f32, and one whose layers meet every rule of the mixes."""
    paths = {"default": folder / "default.gguf", "deep": folder / "deep.gguf"}
    quantize(build, model, paths["default"], "f32")
    measures.write_deep_model(paths["deep"])
    return paths


@pytest.fixture(scope="module")
def tokens():
    return measures.text_tokens()


@pytest.fixture(scope="module")
def exact(build, sources, folder, tokens):
    return divergence.logits(build, sources["default"], folder, tokens, "--device", "reference")


@pytest.mark.parametrize("kind", measures.SEARCHED)
def test_errors_are_at_most_those_of_ggml(build, model, golden, kind):
    for name, values in measures.sample_tensors(model):
        blocks = subprocess.run([build / "tests/tool/zeph-quants", kind, "quantize"],
                                input=values.tobytes(), stdout=subprocess.PIPE, check=True).stdout
        found = measures.rms(values, np.frombuffer(blocks, np.uint8), kind)
        assert found <= 1.02 * golden["rms"][kind][name], name


@pytest.mark.parametrize("mix", [*UNSEARCHED, *measures.MIXES, "f16", "bf16"])
def test_types_are_those_of_llama_cpp(build, sources, golden, folder, mix):
    for name, source in sources.items():
        path = folder / f"types-{name}.gguf"
        told = quantize(build, source, path, mix)
        wanted = golden["types"][name][mix]
        found = measures.types_of(path)
        assert {k: v for k, v in found.items() if v != wanted["most"]} == wanted["else"]
        # 576 is no multiple of 256, and every stand-in is named
        assert ("stands in for" in told and "576" in told) == \
            (name == "default" and mix not in ("q8_0", "f16", "bf16"))


@pytest.mark.parametrize("mix", [*BARS, *UNSEARCHED, *(m for m in measures.MIXES if m != "q3_k_s")])
def test_divergence_is_at_most_that_of_llama_cpp(build, sources, golden, folder, tokens, exact, mix):
    """Of the quantised weights from the f32 model, on the reference backend; and of the cpu backend
    from the reference, both on the same file."""
    path = folder / "divergence.gguf"
    quantize(build, sources["default"], path, mix)
    reference = divergence.logits(build, path, folder, tokens, "--device", "reference")
    if mix in golden["kl"]:
        assert divergence.mean_kl(exact, reference) <= 1.05 * golden["kl"][mix]
    cpu = divergence.logits(build, path, folder, tokens, "--device", "cpu")
    found = divergence.mean_kl(reference, cpu)
    print(f"\n{mix}: cpu {found:.2e}")
    assert -1e-12 < found <= BARS.get(mix, golden["llama"].get(mix))


@pytest.mark.parametrize("mix", ["q4_k_m", "q8_0"])
def test_quantising_while_loading_gives_what_the_file_gives(build, sources, folder, tokens, mix):
    path = folder / "same.gguf"
    quantize(build, sources["default"], path, mix)
    few, options = tokens[:16], ["--device", "cpu"]
    of_file = divergence.logits(build, path, folder, few, *options)
    loaded = divergence.logits(build, sources["default"], folder, few, "--quantize", mix, *options)
    assert np.array_equal(of_file.view(np.uint32), loaded.view(np.uint32))


def test_a_file_keeps_all_else(build, model, folder):
    path = folder / "keeps.gguf"
    quantize(build, model, path, "iq4_xs", "--requantize")
    before, after = gguf.GGUFReader(model), gguf.GGUFReader(path)
    kept = [name for name in before.fields if name not in STORAGE and not name.startswith("GGUF.")]
    assert [n for n in after.fields if n not in STORAGE and not n.startswith("GGUF.")] == kept
    assert len(kept) > 20
    for name in kept:
        assert before.fields[name].types == after.fields[name].types, name
        assert before.fields[name].contents() == after.fields[name].contents(), name
    assert after.fields["general.file_type"].contents() == 30
    assert [t.name for t in after.tensors] == [t.name for t in before.tensors]
    for a, b in zip(before.tensors, after.tensors):
        assert list(a.shape) == list(b.shape)
        if len(a.shape) == 1:
            assert b.tensor_type.name == "F32" and np.array_equal(a.data, b.data)


def leftovers(path):
    return [p.name for p in path.iterdir()]


def test_what_cannot_be_quantised_is_refused_by_name(build, model, sources, tmp_path):
    out = tmp_path / "out.gguf"
    assert "q8_0 already" in quantize(build, model, out, "q4_k_m", check=5)
    assert "one of f32" in quantize(build, model, out, "q9_x", check=2)
    assert "missing.gguf" in quantize(build, tmp_path / "missing.gguf", out, "q8_0", check=5)
    assert "another file" in quantize(build, sources["deep"], sources["deep"], "q8_0", check=5)
    assert "No such file" in quantize(build, sources["deep"], tmp_path / "no/out.gguf", "q8_0", check=5)
    assert "no config.json" in quantize(build, tmp_path, out, "q8_0", check=5)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e9])
def test_numbers_that_no_block_holds_are_refused(build, sources, tmp_path, value):
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(sources["deep"].read_bytes())
    quantize(build, damaged, tmp_path / "f32.gguf", "f32")
    tensor = next(t for t in gguf.GGUFReader(tmp_path / "f32.gguf", "r+").tensors
                  if t.name == "blk.3.ffn_up.weight")
    tensor.data[5][7] = value
    del tensor
    told = quantize(build, tmp_path / "f32.gguf", tmp_path / "out.gguf", "q4_k_m", check=5)
    assert "blk.3.ffn_up.weight" in told and "row 5" in told
    assert sorted(leftovers(tmp_path)) == ["damaged.gguf", "f32.gguf"]


def test_a_signal_leaves_nothing_behind(build, sources, tmp_path):
    process = subprocess.Popen([build / "engine/zeph-quantize", sources["default"],
                                tmp_path / "out.gguf", "--type", "q6_k", "--threads", "1"],
                               stderr=subprocess.PIPE)
    while not leftovers(tmp_path) and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == -signal.SIGINT
    assert leftovers(tmp_path) == []


def test_zephctl_finds_the_program(build, sources, tmp_path):
    out = tmp_path / "out.gguf"
    subprocess.run([build / "client/zephctl", "quantize", sources["deep"], out, "--type", "q4_k_m"],
                   check=True, capture_output=True)
    assert measures.types_of(out)["output.weight"] == "q6_k"
    done = subprocess.run([build / "client/zephctl", "quantize", "--help"], check=True,
                          capture_output=True, text=True)
    assert "--requantize" in done.stdout


@pytest.mark.daemon
def test_a_daemon_says_what_it_quantised(build, tmp_path):
    model = tmp_path / "tiny.gguf"
    subprocess.run([build / "engine/zeph-mkmodel", "--shape", "tiny", "--type", "f32", model], check=True)
    with Zephd(build, model, "--quantize", "q4_k_m") as zephd, zephd.connect() as client:
        answer = client.wait(client.send("complete", prompt=[1, 2, 3], max_new_tokens=2, temperature=0))
        assert len(answer["tokens"]) >= 1
        status = client.wait(client.send("status"))
        while not status["model"]["hash"]:
            time.sleep(0.05)
            status = client.wait(client.send("status"))
    assert status["model"]["quantize"] == "q4_k_m"
    assert "q5_0 stands in for q4_k" in status["model"]["quantize_note"]
    assert status["model"]["hash"].endswith(":q4_k_m")
    assert status["model"]["bytes"] < 0.5 * os.path.getsize(model)


@pytest.mark.parametrize("where", ["option", "configuration"])
def test_a_type_that_does_not_exist_is_refused(build, tmp_path, where):
    words = ["--quantize", "q9_x"]
    if where == "configuration":
        file = tmp_path / "zephd.conf"
        file.write_text('model: { quantize = "q9_x"; };\n')
        words = ["--config", str(file), "--check-config"]
    done = subprocess.run([build / "daemon/zephd", *words], capture_output=True, text=True, check=False)
    assert done.returncode in (2, 78)
    assert "q9_x" in done.stderr and "q4_k_m" in done.stderr


@pytest.mark.reference
def test_transformers_loads_the_file(build, sources, tokens, tmp_path):
    """Its own dequantisation of our blocks, and the same logits."""
    import torch
    from transformers import AutoModelForCausalLM

    path = tmp_path / "q4_k_m.gguf"
    quantize(build, sources["default"], path, "q4_k_m")
    reference = divergence.logits(build, path, tmp_path, tokens[:64], "--device", "reference")
    oracle = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype=torch.float32)
    with torch.no_grad():
        found = oracle(torch.tensor([tokens[:64]])).logits[0].numpy()
    assert np.abs(found - reference).max() <= 3e-4 * reference.std()
