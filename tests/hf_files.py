"""Hugging Face directories written by hand: a small random model, and tokenizers that `tokenizers` and
`sentencepiece` made or read."""

import json
import pathlib
import struct

import mistral_common
import numpy
import sentencepiece
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

MISTRAL = pathlib.Path(mistral_common.__file__).parent / "data"
LAYERS, HIDDEN, FFN, HEADS, KV_HEADS, HEAD_DIM, VOCAB = 2, 24, 40, 4, 2, 8, 64

CONFIG = {
    "architectures": ["MistralForCausalLM"], "model_type": "mistral", "hidden_size": HIDDEN,
    "intermediate_size": FFN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM, "vocab_size": VOCAB, "rms_norm_eps": 1e-5,
    "max_position_embeddings": 512, "sliding_window": None, "hidden_act": "silu", "rope_theta": 10000.0,
    "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2}
LLAMA = CONFIG | {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}


def bf16(x):
    """The nearest bfloat16, as its bits."""
    bits = numpy.asarray(x, "<f4").view("<u4").astype(numpy.uint64)
    return ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16).astype("<u2")


STORED = {"F32": lambda x: x.astype("<f4"), "F16": lambda x: x.astype("<f2"), "BF16": bf16}


def weights(biases=False, tied=False, seed=1, vocab=VOCAB):
    """{name: f32 array}, with values that bfloat16 and binary16 hold exactly."""
    draw = numpy.random.Generator(numpy.random.PCG64(seed))
    shapes = {"model.embed_tokens.weight": (vocab, HIDDEN), "model.norm.weight": (HIDDEN,)}
    if not tied:
        shapes["lm_head.weight"] = (vocab, HIDDEN)
    q, kv = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    for layer in range(LAYERS):
        rows = {"self_attn.q_proj": (q, HIDDEN), "self_attn.k_proj": (kv, HIDDEN),
                "self_attn.v_proj": (kv, HIDDEN), "self_attn.o_proj": (HIDDEN, q),
                "mlp.gate_proj": (FFN, HIDDEN), "mlp.up_proj": (FFN, HIDDEN), "mlp.down_proj": (HIDDEN, FFN)}
        for name, shape in rows.items():
            shapes[f"model.layers.{layer}.{name}.weight"] = shape
            if biases:
                shapes[f"model.layers.{layer}.{name}.bias"] = shape[:1]
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"model.layers.{layer}.{name}.weight"] = (HIDDEN,)
    made = {}
    for name, shape in shapes.items():
        x = draw.integers(-127, 128, shape).astype(numpy.float32) / 64
        if name.endswith("norm.weight"):
            x = 1 + x / 8
        elif len(shape) == 2 and "embed" not in name:
            x = x / 4
        made[name] = (bf16(x).astype("<u4") << 16).view("<f4")
    return made


def safetensors(path, tensors, dtype="F32"):
    header, blobs, at = {"__metadata__": {"format": "pt"}}, [], 0
    for name, x in tensors.items():
        blob = STORED[dtype](x).tobytes()
        header[name] = {"dtype": dtype, "shape": list(x.shape), "data_offsets": [at, at + len(blob)]}
        blobs.append(blob)
        at += len(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def directory(path, config=CONFIG, tensors=None, dtype="F32", shards=1, **files):
    """files: NAME_json={...} is NAME.json; None leaves it out."""
    path.mkdir(parents=True, exist_ok=True)
    tensors = weights() if tensors is None else tensors
    (path / "config.json").write_text(json.dumps(config))
    if shards == 1:
        safetensors(path / "model.safetensors", tensors, dtype)
    else:
        names, index = list(tensors), {}
        for i in range(shards):
            file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
            safetensors(path / file, {name: tensors[name] for name in names[i::shards]}, dtype)
            index |= {name: file for name in names[i::shards]}
        (path / "model.safetensors.index.json").write_text(
            json.dumps({"metadata": {"total_size": 0}, "weight_map": index}))
    for name, value in files.items():
        (path / (name.replace("_json", ".json"))).write_text(json.dumps(value))
    return path


# --- tokenizers

def pieces(path):
    """[(text, score, type)] of a tokenizer.model."""
    found = processor(path)
    return [(found.id_to_piece(i), found.get_score(i),
             2 if found.is_unknown(i) else 3 if found.is_control(i) else 6 if found.is_byte(i) else 1)
            for i in range(len(found))]


def mistral_json(path, prefix="always"):
    """tokenizer.json for Mistral's vocabulary, as transformers' converter makes it: each way to put a
    piece together is a merge, in the order of the pieces' scores."""
    found = pieces(path)
    ids = {text: i for i, (text, _, _) in enumerate(found)}
    merges = []
    for text, score, kind in found:
        if kind != 1:
            continue
        splits = [(ids[text[:i]], ids[text[i:]], text[:i], text[i:]) for i in range(1, len(text))
                  if text[:i] in ids and text[i:] in ids]
        merges += [(-score, ids[text], left, right) for _, _, left, right in sorted(splits)]
    merges.sort(key=lambda merge: merge[0])
    tokenizer = tokenizers.Tokenizer(models.BPE(
        ids, [(left, right) for _, _, left, right in merges], unk_token="<unk>", fuse_unk=True,
        byte_fallback=True))
    if prefix == "legacy":
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("\u2581", prepend_scheme=prefix, split=False)
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens(
        [AddedToken(text, normalized=False, special=True) for text, _, kind in found if kind in (2, 3)])
    return tokenizer


def processor(path):
    return sentencepiece.SentencePieceProcessor(model_file=str(path))
