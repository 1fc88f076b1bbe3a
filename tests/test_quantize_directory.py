"""zephctl quantize of a Hugging Face directory: the GGUF says what the directory says, to zeph (the same
logits, ids and texts), to the package gguf and to transformers."""

import json
import subprocess

import gguf
import hf_files
import numpy as np
import pytest
import tokenizer_texts
from hf_files import CONFIG, LLAMA, MISTRAL
from test_hf import LINEAR, LLAMA3, YARN, as_gguf, difference, llama3_factors, run, tokenizer  # noqa: F401
from test_hf_tokenizers import write
from test_quantize import quantize
from test_tokenizers import LLAMA_3, ByteLevelFile, digits_then_gpt2, gpt2, run_zeph, split, tekken
from tokenizers import AddedToken, processors
from zephd import Zephd

MODEL = MISTRAL / "tokenizer.model.v1"
TEXTS = [raw for some in tokenizer_texts.texts().values() for raw in some[::3]]
# In standard deviations of a position's logits: the sum over a head's elements has another order, since
# a GGUF has them in pairs (and another divisor for Llama 3's frequencies, rounded to f32).
REORDERED = 2e-5
YARN_FACTOR = YARN | {"attention_factor": 1.3}
KEPT = {"F32": "f32", "F16": "f16", "BF16": "bf16"}


@pytest.fixture(scope="module")
def random_directory(build, tmp_path_factory):
    """Rows of 256 and more, so that every type fits."""
    path = tmp_path_factory.mktemp("random") / "m"
    subprocess.run([build / "engine/zeph-mkmodel", "--shape", "mistral-tiny", "--type", "bf16", "--seed", "3",
                    path], check=True, capture_output=True)
    return path


def tensors(path):
    return [(t.name, t.tensor_type.name, list(t.shape), t.data.tobytes()) for t in gguf.GGUFReader(path).tensors]


def fields(path):
    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}


# --- the same model

CASES = {
    "mistral": (CONFIG, {}), "window": (CONFIG | {"sliding_window": 9}, {}), "llama": (LLAMA, {}),
    "linear": (LLAMA | {"rope_scaling": LINEAR}, {}), "yarn": (CONFIG | {"rope_scaling": YARN}, {}),
    "yarn with its factor": (LLAMA | {"rope_scaling": YARN_FACTOR}, {}),
    "llama3": (LLAMA | {"rope_scaling": LLAMA3, "rope_theta": 500000.0}, {}),
    "biases": (LLAMA | {"attention_bias": True, "mlp_bias": True}, {"biases": True}),
    "tied": (LLAMA | {"tie_word_embeddings": True}, {"tied": True}),
}


@pytest.mark.parametrize("dtype", KEPT)
@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_the_directory(build, run, tmp_path, case, dtype):  # noqa: F811
    config, extra = CASES[case]
    source = hf_files.directory(tmp_path / "m", config, hf_files.weights(**extra), dtype, shards=2)
    quantize(build, source, tmp_path / "m.gguf", KEPT[dtype])
    for device in [("reference",), ("cpu", "--activations", "exact")]:
        found = difference(run(tmp_path / "m.gguf", device=device), run(source, device=device))
        print(f"\n{device[0]}: {found:.1e}", end="")
        assert found < REORDERED


@pytest.mark.parametrize("mix", ["q4_k_m", "q8_0", "q3_k_l", "iq4_xs", "f16"])
def test_quantised_it_is_what_loading_makes_of_the_directory(build, run, random_directory, tmp_path, mix):  # noqa: F811
    quantize(build, random_directory, tmp_path / "m.gguf", mix)
    assert difference(run(tmp_path / "m.gguf"), run(random_directory, device=("reference", "--quantize", mix))) \
        < REORDERED
    # and bit for bit what comes of it through a file of all its bits
    quantize(build, random_directory, tmp_path / "f32.gguf", "f32")
    quantize(build, tmp_path / "f32.gguf", tmp_path / "again.gguf", mix)
    assert tensors(tmp_path / "m.gguf") == tensors(tmp_path / "again.gguf")


def test_tensors_are_those_of_a_gguf_written_by_others(build, tmp_path):
    config = LLAMA | {"rope_scaling": LLAMA3, "attention_bias": True, "mlp_bias": True}
    weights = hf_files.weights(biases=True)
    quantize(build, hf_files.directory(tmp_path / "m", config, weights, "BF16"), tmp_path / "mine.gguf", "f32")
    as_gguf(tmp_path / "other.gguf", config, weights, llama3_factors(config))
    mine, other = ({t.name: t for t in gguf.GGUFReader(tmp_path / f"{name}.gguf").tensors}
                   for name in ("mine", "other"))
    assert mine.keys() == other.keys()
    for name, tensor in other.items():
        assert list(mine[name].shape) == list(tensor.shape), name
        if name == "rope_freqs.weight":
            assert np.allclose(mine[name].data, tensor.data, rtol=1e-6)
        else:
            assert np.array_equal(mine[name].data, tensor.data), name
    keys = fields(tmp_path / "mine.gguf")
    for name, value in fields(tmp_path / "other.gguf").items():
        if name.startswith(("llama.", "general.architecture")):
            assert keys[name] == value, name


def test_both_layouts_of_a_random_model_become_one_file(build, tmp_path):
    for name in ["m", "other.gguf"]:
        subprocess.run([build / "engine/zeph-mkmodel", "--shape", "mistral-tiny", "--type", "f32", "--seed", "3",
                        tmp_path / name], check=True, capture_output=True)
    quantize(build, tmp_path / "m", tmp_path / "mine.gguf", "f32")
    mine, other = fields(tmp_path / "mine.gguf"), fields(tmp_path / "other.gguf")
    del mine["general.name"], other["general.name"]
    assert {k for k in mine if k not in other} <= {"GGUF.kv_count"}
    assert {k for k in other if mine.get(k) != other[k]} <= {"GGUF.kv_count"}
    assert tensors(tmp_path / "mine.gguf") == tensors(tmp_path / "other.gguf")


# --- the same ids

def compare_ids(build, directory, path, *texts):
    quantize(build, directory, path, "f16")
    raws = TEXTS + [text.encode() for text in texts]
    options = ("--trusted", "--model")
    assert run_zeph(build, path, raws, *options) == run_zeph(build, directory, raws, *options)


@pytest.fixture(scope="module")
def mistral_weights():
    return hf_files.weights(vocab=32000)


def with_tokenizer(path, weights, *arguments, rows=32000, **config):
    hf_files.directory(path, LLAMA | {"vocab_size": rows}, weights)
    return write(path, *arguments, **config)


SPECIALS = ["<s>a</s> b", "</s>[INST] x [/INST]", "<unk> <s>", " </s> "]


@pytest.mark.parametrize("form", ["model", "legacy", "always", "first", "never"])
def test_mistral(build, mistral_weights, tmp_path, form):
    tokenizer = None if form == "model" else hf_files.mistral_json(MODEL, form)
    source = with_tokenizer(tmp_path / "m", mistral_weights, tokenizer, MODEL if form == "model" else None,
                            unk_token="<unk>", pad_token={"content": "</s>"}, tokenizer_class="LlamaTokenizer")
    compare_ids(build, source, tmp_path / "m.gguf", *SPECIALS)
    found = fields(tmp_path / "m.gguf")
    pieces = hf_files.pieces(MODEL)
    assert found["tokenizer.ggml.model"] == "llama" and found["tokenizer.ggml.add_bos_token"] is True
    assert found["tokenizer.ggml.tokens"] == [text for text, _, _ in pieces]
    assert found["tokenizer.ggml.token_type"] == [kind for _, _, kind in pieces]
    put_together = [i for i, (text, _, kind) in enumerate(pieces) if kind == 1 and len(text) > 1]

    def order(scores):
        return sorted(put_together, key=lambda i: -scores[i])

    scores = [score for _, score, _ in pieces]
    assert order(found["tokenizer.ggml.scores"]) == order(scores)  # also where they come of merges' ranks
    assert form != "model" or found["tokenizer.ggml.scores"] == scores
    for name, value in [("bos", 1), ("eos", 2), ("unknown", 0), ("padding", 2)]:
        assert found[f"tokenizer.ggml.{name}_token_id"] == value
    assert found["tokenizer.ggml.add_space_prefix"] is (form != "never")
    own = {name.removeprefix("zeph.tokenizer.") for name in found if name.startswith("zeph.")}
    assert own == {"model": set(), "legacy": {"ranked"}, "first": {"ranked", "space_first", "space_once"}}.get(
        form, {"ranked", "space_once"})


def test_tokens_added_before_spaces_and_beyond_the_vocabulary(build, tmp_path):
    """User-defined ones cut what a space goes in front of; rows without a token are filled up."""
    made = hf_files.mistral_json(MODEL, "first")
    made.add_tokens([AddedToken("<tool>", normalized=False), AddedToken("cutting", normalized=False)])
    made.add_special_tokens(["<|end|>"])
    rows = 32010
    source = with_tokenizer(tmp_path / "m", hf_files.weights(vocab=rows), made, rows=rows,
                            additional_special_tokens=["<|end|>"])
    compare_ids(build, source, tmp_path / "m.gguf",
                "a cutting edge", "cuttingcutting x", "<tool> b<tool>c", "<|end|>", " x")
    found = fields(tmp_path / "m.gguf")
    assert found["zeph.tokenizer.defined_cuts"] is True
    assert len(found["tokenizer.ggml.tokens"]) == len(set(found["tokenizer.ggml.tokens"])) == rows
    assert found["tokenizer.ggml.token_type"][32000:32004] == [4, 4, 3, 3]


@pytest.mark.parametrize("kind", ["gpt-2", "smollm", "llama-3", "tekken", "llama-3 without whole words"])
def test_byte_level(build, model, tmp_path, kind):
    make, whole, pre = {
        "gpt-2": (gpt2, False, "gpt-2"), "smollm": (digits_then_gpt2, False, "smollm"),
        "llama-3": (lambda: split(LLAMA_3), True, "llama-bpe"),
        "llama-3 without whole words": (lambda: split(LLAMA_3), False, "llama-bpe"),
        "tekken": (lambda: split(tekken()["config"]["pattern"]), True, "tekken")}[kind]
    file = ByteLevelFile(model)
    made = file.reference(make(), whole)
    bos = file.tokens[1]
    made.add_special_tokens([bos])
    made.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, 1)])
    rows = made.get_vocab_size()
    source = with_tokenizer(tmp_path / "m", hf_files.weights(vocab=rows), made, rows=rows, bos_token=bos,
                            tokenizer_class="PreTrainedTokenizerFast")
    compare_ids(build, source, tmp_path / "m.gguf")
    found = fields(tmp_path / "m.gguf")
    assert (found["tokenizer.ggml.model"], found["tokenizer.ggml.pre"]) == ("gpt2", pre)
    assert len(found["tokenizer.ggml.merges"]) == len(json.loads(made.to_str())["model"]["merges"])
    assert found.get("zeph.tokenizer.whole_words") == (False if "without" in kind else None)


# --- the same answers

@pytest.mark.daemon
def test_a_daemon_answers_from_the_file_as_from_the_directory(build, tmp_path):
    template = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }}{{ pad_token }}.{% endfor %}"
    source = hf_files.directory(
        tmp_path / "m", LLAMA, tokenizer_json=tokenizer(), generation_config_json={
            "temperature": 0.6, "top_k": 0, "top_p": 0.8, "min_p": 0.125, "typical_p": 0.75,
            "repetition_penalty": 1.25, "eos_token_id": [2, 1]},
        tokenizer_config_json={"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>",
                               "chat_template": template})
    quantize(build, source, tmp_path / "m.gguf", "f32")
    answers = []
    for path in [source, tmp_path / "m.gguf"]:
        with Zephd(build, path, "--device", "reference") as zephd, zephd.connect() as client:
            prompt = client.call("template", messages=[{"role": "user", "content": "hi"}])["prompt"]
            assert prompt == "user hi<unk>."
            answers.append([client.call("chat", messages=[{"role": "user", "content": "hi"}], seed=seed,
                                        max_new_tokens=20) for seed in range(5)])
    for a, b in zip(*answers):
        assert (a["tokens"], a["text"], a["finish"]) == (b["tokens"], b["text"], b["finish"])
        assert a["receipt"]["sampling"] == b["receipt"]["sampling"]
    assert len({tuple(a["tokens"]) for a in answers[0]}) > 1
    for name, value in [("temperature", 0.6), ("top_k", 0), ("top_p", 0.8), ("min_p", 0.125), ("typical_p", 0.75),
                        ("repetition_penalty", 1.25)]:
        assert answers[0][0]["receipt"]["sampling"][name] == value


# --- what a GGUF cannot say

@pytest.mark.parametrize("config, files, named", [
    ({"rope_scaling": YARN | {"truncate": False}}, {}, "truncate"),
    ({"rope_scaling": YARN | {"beta_slow": 1.5}}, {}, "beta_slow"),
    ({}, {"generation_config_json": {"eos_token_id": [2, 1, 0, 3]}, "tokenizer_json": None}, "eos_token_id"),
    ({}, {"generation_config_json": {"eos_token_id": [2, 7]}, "tokenizer_json": tokenizer()}, "token 7"),
])
def test_what_has_no_key_is_refused_by_name(build, tmp_path, config, files, named):
    files = {name: value for name, value in files.items() if value is not None}
    source = hf_files.directory(tmp_path / "m", LLAMA | config, **files)
    assert named in quantize(build, source, tmp_path / "m.gguf", "f32", check=5)
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_without_a_tokenizer_the_file_has_none(build, run, tmp_path):  # noqa: F811
    source = hf_files.directory(tmp_path / "m")
    quantize(build, source, tmp_path / "m.gguf", "f32")
    found = fields(tmp_path / "m.gguf")
    assert found["tokenizer.ggml.model"] == "no_vocab" and found["tokenizer.ggml.eos_token_id"] == 2
    assert found["general.name"] == "m" and found["general.file_type"] == 0


# --- transformers reads it

@pytest.mark.reference
def test_transformers_reads_the_file(build, run, random_directory, tmp_path):  # noqa: F811
    import torch
    from transformers import AutoModelForCausalLM

    quantize(build, random_directory, tmp_path / "m.gguf", "q8_0")
    ids = list(range(3, 60))  # within the window, which transformers does not take from the file
    oracle = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", dtype=torch.float32)
    with torch.no_grad():
        found = oracle(torch.tensor([ids])).logits[0].numpy()
    assert difference(found, run(tmp_path / "m.gguf", ids)) < 3e-4
