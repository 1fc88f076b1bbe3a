"""What the tests of quantising and the script that makes their golden have in common."""

import json
import pathlib

import gguf
import numpy as np

GOLDEN = pathlib.Path(__file__).resolve().parent / "golden"
POSITIONS = 192
SEARCHED = ["q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs"]
# Of which the K types and IQ4 are a part; the others are the package gguf's, bit for bit. (On the
# default model q3_k_s makes the same file as q2_k.)
MIXES = ["q2_k", "q3_k_s", "q3_k_m", "q3_k_l", "q4_k_s", "q4_k_m", "q5_k_s", "q5_k_m", "q6_k",
         "iq4_nl", "iq4_xs"]


def text_tokens():
    return json.loads((GOLDEN / "essay-smollm2.json").read_text(encoding="utf-8"))[:POSITIONS]


def sample_tensors(default_model):
    """Named tensors of the default model as f32, of every kind, in multiples of 256."""
    tensors = {t.name: t for t in gguf.GGUFReader(default_model).tensors}
    for name in ["blk.0.attn_q", "blk.0.ffn_down", "blk.2.attn_v", "blk.14.attn_k",
                 "blk.14.attn_output", "blk.29.ffn_gate", "blk.29.ffn_up"]:
        t = tensors[name + ".weight"]
        yield name, gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32).reshape(-1)[:1 << 18]


def rms(values, blocks, kind):
    """The error of the blocks, relative to the values' own root mean square."""
    got = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[kind.upper()]).reshape(-1)
    exact = values.astype(np.float64)
    return float(np.sqrt(np.mean((exact - got) ** 2) / np.mean(exact**2)))


def types_of(path):
    return {t.name: t.tensor_type.name.lower() for t in gguf.GGUFReader(path).tensors
            if len(t.shape) > 1}


def write_deep_model(path):
    """32 layers, four heads to a key head: every rule of the mixes applies somewhere."""
    layers, dim, vocab, key_dim = 32, 256, 256, 64
    w = gguf.GGUFWriter(path, "llama")
    w.add_block_count(layers)
    w.add_context_length(256)
    w.add_embedding_length(dim)
    w.add_feed_forward_length(dim)
    w.add_head_count(8)
    w.add_head_count_kv(2)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_vocab_size(vocab)
    w.add_tokenizer_model("no_vocab")
    w.add_file_type(1)
    draw = np.random.default_rng(3)

    def matrix(name, rows):
        w.add_tensor(name, (draw.standard_normal((rows, dim)) / 8).astype(np.float16))

    matrix("token_embd.weight", vocab)
    for i in range(layers):
        for name, rows in [("attn_q", dim), ("attn_k", key_dim), ("attn_v", key_dim),
                           ("attn_output", dim), ("ffn_gate", dim), ("ffn_up", dim), ("ffn_down", dim)]:
            matrix(f"blk.{i}.{name}.weight", rows)
        for name in ["attn_norm", "ffn_norm"]:
            w.add_tensor(f"blk.{i}.{name}.weight", np.ones(dim, np.float32))
    w.add_tensor("output_norm.weight", np.ones(dim, np.float32))
    matrix("output.weight", vocab)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
