"""zeph-mkmodel's files, read by the package gguf: types, shapes, metadata, and weights that are random
as promised."""

import hashlib
import json
import pathlib
import struct
import subprocess

import gguf
import mistral_common
import numpy as np
import pytest
import sentencepiece
from test_tokenizers import run_zeph

TYPES = ["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1",
         "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs"]
# The root mean square error of a normal variable of unit variance in each type, about twice what
# rounding to its step costs: f16 2^-11, bf16 2^-8, then by bits.
ERROR = {"f32": 0, "f16": 1e-3, "bf16": 4e-3, "q8_0": 0.01, "q4_0": 0.2, "q4_1": 0.15, "q5_0": 0.1,
         "q5_1": 0.08, "q2_k": 0.5, "q3_k": 0.3, "q4_k": 0.13, "q5_k": 0.07, "q6_k": 0.04,
         "iq4_nl": 0.17, "iq4_xs": 0.17}


@pytest.fixture(scope="module")
def make(build, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mkmodel")

    def run(shape, kind, seed=1, threads=0, name=None):
        path = folder / (name or f"{shape}-{kind}-{seed}-{threads}.gguf")
        if not path.exists():
            subprocess.run([build / "engine/zeph-mkmodel", "--shape", shape, "--type", kind, "--seed",
                            str(seed), "--threads", str(threads), path], check=True, capture_output=True)
        return path

    return run


def values(tensor):
    return gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float64)


def fields(reader):
    return {name: field.contents() for name, field in reader.fields.items()}


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_holds_the_same_random_model(make, kind):
    exact = gguf.GGUFReader(make("mistral-tiny", "f32")).tensors
    tensors = gguf.GGUFReader(make("mistral-tiny", kind)).tensors
    assert [t.name for t in tensors] == [t.name for t in exact]
    for tensor, reference in zip(tensors, exact):
        assert list(tensor.shape) == list(reference.shape)
        assert tensor.tensor_type.name == ("F32" if len(tensor.shape) == 1 else kind.upper())
        wanted, got = values(reference), values(tensor)
        error = np.sqrt(np.mean((got - wanted) ** 2)) / np.std(wanted)
        assert error <= (ERROR[kind] if len(tensor.shape) == 2 else 0), tensor.name


def test_weights_have_the_spread_that_lets_faults_show(make):
    for tensor in gguf.GGUFReader(make("mistral-tiny", "f32")).tensors:
        x = values(tensor)
        if len(tensor.shape) == 1:
            mean, spread = 1, 0.1
        elif tensor.name == "token_embd.weight":
            mean, spread = 0, 1
        else:
            mean, spread = 0, 2 / np.sqrt(tensor.shape[0])
        # five standard errors of a mean and of a standard deviation
        assert abs(x.mean() - mean) < 5 * spread / np.sqrt(x.size), tensor.name
        assert abs(x.std() - spread) < 5 * spread / np.sqrt(2 * x.size), tensor.name
        assert len(np.unique(x)) > 0.9 * x.size or x.size > 10000


def test_rows_and_tensors_are_not_repeated(make):
    rows = set()
    count = 0
    for tensor in gguf.GGUFReader(make("tiny", "f32")).tensors:
        for row in values(tensor).reshape(-1, tensor.shape[0]):
            rows.add(row[:16].tobytes())
            count += 1
    assert len(rows) == count


def test_a_file_depends_on_the_seed_and_not_on_the_threads(make):
    digest = {
        (seed, threads): hashlib.sha256(make("mistral-tiny", "q4_k", seed, threads).read_bytes()).digest()
        for seed, threads in [(1, 1), (1, 2), (1, 7), (2, 1)]
    }
    assert digest[1, 1] == digest[1, 2] == digest[1, 7]
    assert digest[1, 1] != digest[2, 1]


def test_the_mix_of_q4_k_m(make):
    types = {t.name: t.tensor_type.name for t in gguf.GGUFReader(make("mistral-tiny", "q4_k_m")).tensors}
    assert types["output.weight"] == "Q6_K"
    assert types["token_embd.weight"] == "Q4_K"
    # llama.cpp's rule for four layers: none in the first eighth, the last one, every third between
    for layer in range(4):
        better = "Q6_K" if layer in (2, 3) else "Q4_K"
        assert types[f"blk.{layer}.attn_v.weight"] == better
        assert types[f"blk.{layer}.ffn_down.weight"] == better
        assert types[f"blk.{layer}.attn_q.weight"] == "Q4_K"
        assert types[f"blk.{layer}.attn_norm.weight"] == "F32"


@pytest.mark.parametrize("kind, narrow", [("q2_k", "Q4_0"), ("q3_k", "Q4_0"), ("q4_k", "Q5_0"),
                                          ("q5_k", "Q5_1"), ("q6_k", "Q8_0")])
def test_rows_that_a_k_type_cannot_hold_fall_back_and_say_so(build, tmp_path, kind, narrow):
    path = tmp_path / "tiny.gguf"
    told = subprocess.run([build / "engine/zeph-mkmodel", "--shape", "tiny", "--type", kind, path],
                          check=True, capture_output=True, text=True).stderr
    types = {t.name: t.tensor_type.name for t in gguf.GGUFReader(path).tensors}
    assert types["blk.0.attn_q.weight"] == narrow  # rows of 64
    assert types["blk.0.ffn_down.weight"] == kind.upper()  # rows of 256
    assert "blk.0.attn_q.weight" in told and narrow.lower() in told and "64" in told
    assert "ffn_down" not in told


def test_metadata_of_the_byte_level_model(make):
    reader = gguf.GGUFReader(make("tiny", "q4_0"))
    found = fields(reader)
    assert found["general.architecture"] == "llama"
    assert found["llama.block_count"] == 2
    assert found["llama.embedding_length"] == 64
    assert found["llama.attention.head_count_kv"] == 2
    assert found["llama.attention.sliding_window"] == 0
    assert found["tokenizer.ggml.model"] == "gpt2"
    tokens, merges = found["tokenizer.ggml.tokens"], found["tokenizer.ggml.merges"]
    assert len(tokens) == len(set(tokens)) == found["llama.vocab_size"] == 512
    assert tokens[found["tokenizer.ggml.bos_token_id"]] == "<|im_start|>"
    assert tokens[found["tokenizer.ggml.eos_token_id"]] == "<|im_end|>"
    for merge in merges:
        left, right = merge.split(" ")
        assert left in tokens and right in tokens and left + right in tokens
    assert "<|im_start|>" in found["tokenizer.chat_template"]
    by_name = {t.name: list(t.shape) for t in reader.tensors}
    assert by_name["output.weight"] == [64, 512]
    assert reader.data_offset % 32 == 0
    assert make("tiny", "q4_0").stat().st_size < 200_000


def test_metadata_of_the_sentencepiece_model(make):
    found = fields(gguf.GGUFReader(make("mistral-tiny", "q4_0")))
    assert found["llama.attention.sliding_window"] == 64
    assert found["tokenizer.ggml.model"] == "llama"
    tokens, types = found["tokenizer.ggml.tokens"], found["tokenizer.ggml.token_type"]
    assert len(tokens) == len(set(tokens)) == len(types) == len(found["tokenizer.ggml.scores"]) == 1024
    assert tokens[:3] == ["<unk>", "<s>", "</s>"] and types[:3] == [2, 3, 3]
    assert tokens[3:259] == [f"<0x{byte:02X}>" for byte in range(256)] and set(types[3:259]) == {6}
    assert "\u2581" in tokens and all(chr(c) in tokens for c in range(33, 127))
    assert found["tokenizer.ggml.add_bos_token"] is True
    assert "<|assistant|>" in found["tokenizer.chat_template"]


def test_the_tied_shape_has_the_real_ones_sizes(make):
    reader = gguf.GGUFReader(make("smollm2-135m", "q4_0"))
    found = fields(reader)
    assert len(found["tokenizer.ggml.tokens"]) == len(set(found["tokenizer.ggml.tokens"])) == 49152
    assert len(reader.tensors) == 272
    assert not any(t.name == "output.weight" for t in reader.tensors)
    assert sum(int(np.prod(t.shape)) for t in reader.tensors) == 134_515_008


@pytest.mark.parametrize("arguments, said", [
    (["--shape", "huge", "x.gguf"], "tiny, mistral-tiny, smollm2-135m, zephyr-7b"),
    (["--type", "q9_9", "x.gguf"], "q4_k_m"),
    (["--seed", "-1", "x.gguf"], "--seed"),
    (["--seed", "18446744073709551616", "x.gguf"], "--seed"),
    (["--threads", "257", "x.gguf"], "--threads"),
    (["--type", "q4_0", "folder"], "OUT.gguf"),
    (["--tokenizer", "/dev/null", "x.gguf"], "tokenizer.model"),
    ([], "OUT.gguf"),
    (["a.gguf", "b.gguf"], "OUT.gguf"),
])
def test_a_wrong_call_is_exit_2_and_says_what_was_wanted(build, tmp_path, arguments, said):
    run = subprocess.run([build / "engine/zeph-mkmodel", *arguments], cwd=tmp_path, capture_output=True,
                         text=True)
    assert run.returncode == 2
    assert said in run.stderr
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_where_writing_fails(build, tmp_path):
    run = subprocess.run(["bash", "-c", 'ulimit -f 64; trap "" XFSZ; exec "$0" --type f32 x.gguf',
                          build / "engine/zeph-mkmodel"], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 1
    assert "File too large" in run.stderr
    assert list(tmp_path.iterdir()) == []


# --- Hugging Face directories

MISTRAL = pathlib.Path(mistral_common.__file__).parent / "data/tokenizer.model.v1"
TEXTS = [b"The rain in Spain", b"", b" two  spaces", "\u00e9t\u00e9 \U0001f600 12345".encode(), b"a\nb"]


def logits(build, model, folder):
    ids = np.arange(48, dtype="<u4") * 37 % 512
    ids.tofile(folder / "ids")
    subprocess.run([build / "tests/tool/zeph-logits", "--model", model, "--tokens", folder / "ids", "--out",
                    folder / "out"], check=True)
    return np.fromfile(folder / "out", "<f4").reshape(len(ids), -1)


@pytest.mark.parametrize("shape", ["tiny", "mistral-tiny"])
@pytest.mark.parametrize("kind", ["f32", "f16", "bf16"])
def test_both_layouts_are_the_same_model(build, make, tmp_path, shape, kind):
    """Up to the norms, which a directory has in its type and a GGUF in f32."""
    directory, file = make(shape, kind, name=f"{shape}-{kind}-dir"), make(shape, kind)
    found, wanted = logits(build, directory, tmp_path), logits(build, file, tmp_path)
    assert np.abs(found - wanted).max() < {"f32": 3e-4, "f16": 0.02, "bf16": 0.2}[kind] * wanted.std()
    assert run_zeph(build, directory, TEXTS, "--model") == run_zeph(build, file, TEXTS, "--model")


def test_a_directory_says_what_it_is(make):
    directory = make("mistral-tiny", "bf16", name="described")
    config = json.loads((directory / "config.json").read_text())
    assert config["architectures"] == ["MistralForCausalLM"] and config["sliding_window"] == 64
    assert json.loads((make("tiny", "f32", name="llama") / "config.json").read_text())["architectures"] == [
        "LlamaForCausalLM"]
    assert "<|assistant|>" in json.loads((directory / "tokenizer_config.json").read_text())["chat_template"]
    raw = (directory / "model.safetensors").read_bytes()
    header = json.loads(raw[8:8 + struct.unpack("<Q", raw[:8])[0]])
    assert header.pop("__metadata__") == {"format": "pt"}
    assert {t["dtype"] for t in header.values()} == {"BF16"}
    assert header["model.layers.0.self_attn.k_proj.weight"]["shape"] == [64, 256]
    assert len(header) == 3 + 9 * 4
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(directory / "tokenizer.model"))
    assert len(pieces) == 1024 and pieces.is_byte(3) and pieces.encode("the rain")


def test_a_real_tokenizer_by_path(build, tmp_path):
    """In both layouts the ids are Mistral's, and the vocabulary has its size."""
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(MISTRAL))
    for name in ("m.gguf", "m"):
        subprocess.run([build / "engine/zeph-mkmodel", "--shape", "tiny", "--tokenizer", MISTRAL, tmp_path / name],
                       check=True)
        assert logits(build, tmp_path / name, tmp_path).shape[1] == 32000
        assert [ids for ids, _ in run_zeph(build, tmp_path / name, TEXTS, "--model")] == [
            [1] + pieces.encode(text.decode()) for text in TEXTS]
    assert (tmp_path / "m/tokenizer.model").read_bytes() == MISTRAL.read_bytes()


def test_an_existing_directory_is_left_alone(build, tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m/kept").write_text("kept")
    run = subprocess.run([build / "engine/zeph-mkmodel", tmp_path / "m"], capture_output=True, text=True, check=False)
    assert run.returncode == 1 and "exists" in run.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["m"] and (tmp_path / "m/kept").exists()
