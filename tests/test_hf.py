"""Hugging Face directories end to end: committed models with transformers' logits, what must not depend on
the layout of the files, the same weights as a GGUF, a daemon that serves a directory, and refusals by name."""

import json
import math
import os
import subprocess
import time

import gguf
import hf_files
import numpy
import pytest
import tokenizers
from conftest import REPOSITORY
from hf_files import CONFIG, HEAD_DIM, LLAMA
from zephd import Zephd

GOLDEN = REPOSITORY / "tests/golden/hf"
TOLERANCE = 3e-4  # standard deviations of a position's logits, as in test_fidelity.py
IDS = [(7 * i * i + 3 * i) % hf_files.VOCAB for i in range(40)]

LINEAR = {"rope_type": "linear", "factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}


@pytest.fixture(scope="module")
def run(build, tmp_path_factory):
    folder = tmp_path_factory.mktemp("logits")

    def logits(model, ids=IDS, device=("reference",)):
        numpy.asarray(ids, "<u4").tofile(folder / "tokens")
        done = subprocess.run([build / "tests/tool/zeph-logits", "--model", model, "--device", *device, "--tokens",
                               folder / "tokens", "--out", folder / "out"], capture_output=True, check=False)
        if done.returncode:
            raise ValueError(done.stderr.decode())
        return numpy.fromfile(folder / "out", "<f4").reshape(len(ids), -1)

    return logits


def logprobs(x):
    x = x.astype(numpy.float64)
    x -= x.max(-1, keepdims=True)
    return x - numpy.log(numpy.exp(x).sum(-1, keepdims=True))


def difference(of, to):
    return (numpy.abs(logprobs(of) - logprobs(to)).max(-1) / to.std(-1)).max()


# --- what transformers said

@pytest.mark.parametrize("name", ["mistral", "llama"])
@pytest.mark.parametrize("device", [("reference",), ("cpu", "--activations", "exact")])
def test_logits_are_those_of_transformers(run, name, device):
    right = numpy.load(GOLDEN / f"{name}-logits.npy")
    found = run(GOLDEN / name, numpy.load(GOLDEN / f"{name}-tokens.npy"), device)
    assert difference(found, right) < TOLERANCE


# --- the layout of the files says nothing

@pytest.fixture(scope="module")
def plain(run, tmp_path_factory):
    return run(hf_files.directory(tmp_path_factory.mktemp("hf") / "plain"))


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("shards", [1, 2, 5])
def test_types_and_shards(run, plain, tmp_path, dtype, shards):
    assert (run(hf_files.directory(tmp_path / "m", dtype=dtype, shards=shards)) == plain).all()


def test_hub_cache(run, plain, tmp_path):
    """…/snapshots/REVISION is a folder of symbolic links into …/blobs."""
    repository = tmp_path / "models--someone--something"
    source = hf_files.directory(tmp_path / "source", shards=2)
    snapshot = repository / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for i, file in enumerate(sorted(source.iterdir())):
        file.rename(repository / "blobs" / f"{i:040x}")
        os.symlink(f"../../blobs/{i:040x}", snapshot / file.name)
    assert (run(snapshot) == plain).all()


def test_tied_models_ignore_an_output_matrix(run, tmp_path):
    tied = CONFIG | {"tie_word_embeddings": True}
    without = run(hf_files.directory(tmp_path / "a", tied, hf_files.weights(tied=True)))
    stored = hf_files.weights(tied=True) | {"lm_head.weight": hf_files.weights(seed=9)["lm_head.weight"]}
    assert (run(hf_files.directory(tmp_path / "b", tied, stored)) == without).all()


def test_old_checkpoints_store_frequencies(run, plain, tmp_path):
    tensors = hf_files.weights() | {"model.layers.1.self_attn.rotary_emb.inv_freq": numpy.ones(4, "f4")}
    assert (run(hf_files.directory(tmp_path / "m", tensors=tensors)) == plain).all()


@pytest.mark.parametrize("scaling", [LINEAR, YARN, LLAMA3], ids=["linear", "yarn", "llama3"])
def test_rope_parameters_are_rope_scaling_and_theta(run, plain, tmp_path, scaling):
    old = CONFIG | {"rope_theta": 50000.0, "rope_scaling": scaling}
    new = {k: v for k, v in CONFIG.items() if k != "rope_theta"} | {
        "rope_parameters": scaling | {"rope_theta": 50000.0}}
    found = run(hf_files.directory(tmp_path / "a", old))
    assert (found == run(hf_files.directory(tmp_path / "b", new))).all()
    assert difference(found, plain) > 0.01


@pytest.mark.parametrize("change, same_as", [
    ({"head_dim": None, "hidden_size": hf_files.HIDDEN}, None),
    ({"rope_scaling": {"rope_type": "default"}}, CONFIG),
    ({"rope_scaling": None, "quantization_config": None, "unknown_key": 5}, CONFIG),
    ({"sliding_window": 1000}, CONFIG),
])
def test_defaults_of_keys(run, plain, tmp_path, change, same_as):
    if same_as is None:  # head_dim follows from 24 / 4, and the projections have other shapes
        with pytest.raises(ValueError, match="q_proj"):
            run(hf_files.directory(tmp_path / "m", CONFIG | change))
    else:
        assert (run(hf_files.directory(tmp_path / "m", CONFIG | change)) == plain).all()


def test_mistral_without_the_key_has_a_window_of_4096(run, plain, tmp_path):
    config = {k: v for k, v in CONFIG.items() if k != "sliding_window"} | {"max_position_embeddings": 8192}
    ids = (IDS * 104)[:4100]
    short, absent, given, none = (
        run(hf_files.directory(tmp_path / name, config | extra), ids, ("cpu",)) for name, extra in [
            ("short", {"sliding_window": 4095}), ("absent", {}), ("given", {"sliding_window": 4096}),
            ("none", {"sliding_window": None})])
    assert (absent == given).all()
    assert (absent[:4096] == none[:4096]).all() and (absent[4096] != none[4096]).any()
    assert (short[4095] != given[4095]).any()


# --- the same weights as a GGUF

def permuted(x, heads):
    """Rows for rotation of neighbours, as converters write attn_q and attn_k of this architecture."""
    return x.reshape(heads, 2, HEAD_DIM // 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


def as_gguf(path, config, tensors, factors=None):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    if config["sliding_window"]:
        writer.add_sliding_window(config["sliding_window"])
    scaling = config.get("rope_scaling")
    if scaling and scaling["rope_type"] != "llama3":
        writer.add_rope_scaling_type(gguf.RopeScalingType(scaling["rope_type"]))
        writer.add_rope_scaling_factor(scaling["factor"])
        if scaling["rope_type"] == "yarn":
            writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
             "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "q_proj": "attn_q",
             "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output", "gate_proj": "ffn_gate",
             "up_proj": "ffn_up", "down_proj": "ffn_down"}
    for name, x in tensors.items():
        base, kind = name.rsplit(".", 1)
        part = base.rsplit(".", 1)[-1]
        if part in ("q_proj", "k_proj"):
            x = permuted(x, config["num_attention_heads" if part == "q_proj" else "num_key_value_heads"])
        prefix = f"blk.{base.split('.')[2]}." if "layers" in base else ""
        writer.add_tensor(f"{prefix}{names.get(base) or names[part]}.{kind}", numpy.ascontiguousarray(x))
    if factors is not None:
        writer.add_tensor("rope_freqs.weight", factors)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def llama3_factors(config):
    """As converters write them: what each frequency is divided by."""
    s = config["rope_scaling"]
    freqs = config["rope_theta"] ** (-numpy.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    out = []
    for wavelength in 2 * math.pi / freqs:
        ratio = s["original_max_position_embeddings"] / wavelength
        smooth = (ratio - s["low_freq_factor"]) / (s["high_freq_factor"] - s["low_freq_factor"])
        out.append(1 / ((1 - min(max(smooth, 0), 1)) / s["factor"] + min(max(smooth, 0), 1)))
    return numpy.array(out, numpy.float32)


@pytest.mark.parametrize("scaling", [None, LINEAR, YARN, LLAMA3], ids=["unscaled", "linear", "yarn", "llama3"])
@pytest.mark.parametrize("biases", [False, True])
def test_a_gguf_of_the_same_weights_gives_the_same_logits(run, tmp_path, scaling, biases):
    config = LLAMA | {"rope_scaling": scaling, "attention_bias": biases, "mlp_bias": biases}
    tensors = hf_files.weights(biases)
    factors = llama3_factors(config) if scaling == LLAMA3 else None
    mine = run(hf_files.directory(tmp_path / "m", config, tensors))
    other = run(as_gguf(tmp_path / "m.gguf", config, tensors, factors))
    assert difference(other, mine) < TOLERANCE


@pytest.mark.parametrize("factors", [[0, 1, 1, 1], [1, -1, 1, 1], [1, 1, math.inf, 1], [1, 1, 1, math.nan], [1, 1]])
def test_divisors_that_are_none_are_refused(run, tmp_path, factors):
    path = as_gguf(tmp_path / "m.gguf", LLAMA, hf_files.weights(), numpy.array(factors, "f4"))
    with pytest.raises(ValueError, match="rope_freqs"):
        run(path)


# --- a daemon serves it

def tokenizer():
    made = json.loads(tokenizers.Tokenizer(tokenizers.models.BPE()).to_str())
    letters = "\u2581abcdefghijklmnopqrstuvwxyz.?"
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2} | {c: 3 + i for i, c in enumerate(letters)}
    flags = dict.fromkeys(["single_word", "lstrip", "rstrip", "normalized"], False)
    made |= {"added_tokens": [{"id": i, "content": t, "special": True} | flags
                              for i, t in enumerate(["<unk>", "<s>", "</s>"])],
             "pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first",
                               "split": False}}
    made["model"] |= {"vocab": vocab, "merges": [], "unk_token": "<unk>", "fuse_unk": True}
    return made


def test_token_ids_are_served_without_a_tokenizer(build, tmp_path):
    directory = hf_files.directory(tmp_path / "model", generation_config_json={"eos_token_id": [2, 5]})
    with Zephd(build, directory, "--device", "reference") as zephd, zephd.connect() as client:
        answer = client.call("complete", prompt=[1, 7, 9], temperature=0, max_new_tokens=5)
        assert 1 <= len(answer["tokens"]) <= 5 or answer["finish"] == "stop"
        with pytest.raises(Exception, match="E_MODEL"):
            client.call("complete", prompt="text", max_new_tokens=5)


def test_text_and_chat_are_served(build, tmp_path):
    template = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }}.{% endfor %}"
    directory = hf_files.directory(
        tmp_path / "model", tokenizer_json=tokenizer(),
        tokenizer_config_json={"bos_token": "<s>", "eos_token": "</s>", "chat_template": [
            {"name": "other", "template": "x"}, {"name": "default", "template": template}]})
    with Zephd(build, directory, "--device", "reference") as zephd, zephd.connect() as client:
        text = client.call("complete", prompt="abc", temperature=0, max_new_tokens=5)
        ids = client.call("complete", prompt=[1, 3, 4, 5, 6], temperature=0, max_new_tokens=5)
        assert text["tokens"] == ids["tokens"] and text["usage"]["prompt_tokens"] == 5
        chat = client.call("chat", messages=[{"role": "user", "content": "hi"}], temperature=0, max_new_tokens=5)
        assert chat["usage"]["prompt_tokens"] == 1 + len("\u2581user hi.")


NAMES = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token", "image_token"]
NAMES_TEMPLATE = "".join(f"{{{{ {name} }}}} {{{{ {name} is defined }}}}|" for name in NAMES) + \
    "{{ additional_special_tokens | join(',') }}"


def named_tokens(path):
    """A directory whose files name tokens in each of the ways that there are."""
    return hf_files.directory(
        path, tokenizer_json=tokenizer(), tokenizer_config_json={
            "bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": False, "rstrip": False,
                                              "normalized": False, "single_word": False, "__type": "AddedToken"},
            "unk_token": "<unk>", "pad_token": "</s>", "cls_token": "b", "mask_token": None,
            "additional_special_tokens": ["x", "y"], "extra_special_tokens": {"image_token": "z"},
            "tokenizer_class": "PreTrainedTokenizerFast", "chat_template": NAMES_TEMPLATE})


NAMED = "<s> True|</s> True|<unk> True| False|</s> True|b True| False|z True|x,y"


def test_templates_have_every_special_token_that_is_named(build, tmp_path):
    directory = named_tokens(tmp_path / "m")
    with Zephd(build, directory, "--device", "reference") as zephd, zephd.connect() as client:
        made = client.call("template", messages=[{"role": "user", "content": "</s>"}])
    assert made["prompt"] == NAMED


@pytest.mark.reference
def test_transformers_gives_templates_those_tokens(tmp_path):
    from transformers import AutoTokenizer

    found = AutoTokenizer.from_pretrained(named_tokens(tmp_path / "m"))
    assert found.apply_chat_template([{"role": "user", "content": "</s>"}], tokenize=False,
                                     add_generation_prompt=True) == NAMED


def test_added_tokens_without_a_row_stay_text(build, run, tmp_path):
    """A padding token behind the vocabulary loads and is never made; one that ends replies is refused."""
    extra = {"added_tokens_decoder": {str(hf_files.VOCAB): {"content": "abc", "special": True}}}
    plain = tokenizer()
    plain["model"]["vocab"] |= {f"\u2581x{i}": i for i in range(len(plain["model"]["vocab"]), hf_files.VOCAB)}
    directory = hf_files.directory(tmp_path / "model", tokenizer_json=plain, tokenizer_config_json=extra | {
        "bos_token": "<s>", "eos_token": "</s>", "pad_token": "abc"})
    with Zephd(build, directory, "--device", "reference") as zephd, zephd.connect() as client:
        assert client.call("complete", prompt="abc", max_new_tokens=1)["usage"]["prompt_tokens"] == 5
    (directory / "tokenizer_config.json").write_text(json.dumps(extra | {"bos_token": "<s>", "eos_token": "abc"}))
    with pytest.raises(ValueError, match="model.vocab"):
        run(directory)


# --- refusals

@pytest.mark.parametrize("change, named", [
    ({"architectures": ["Qwen2ForCausalLM"]}, "Qwen2ForCausalLM"),
    ({"architectures": []}, "architectures"),
    ({"architectures": ["MistralForCausalLM", "LlamaForCausalLM"]}, "architectures"),
    ({"architectures": None}, "architectures"),
    ({"model_type": "llama"}, "model_type"),
    ({"hidden_act": "gelu"}, "gelu"),
    ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ({"attention_bias": True}, "attention_bias"),
    ({"mlp_bias": True}, "mlp_bias"),
    ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "dynamic"),
    ({"rope_scaling": {"type": "longrope", "factor": 2.0}}, "longrope"),
    ({"rope_scaling": {"rope_type": "linear"}}, "factor"),
    ({"rope_scaling": {"rope_type": "linear", "factor": 0.5}}, "factor"),
    ({"rope_scaling": LINEAR | {"mystery": 1}}, "mystery"),
    ({"rope_scaling": {k: v for k, v in LLAMA3.items() if k != "low_freq_factor"}}, "low_freq_factor"),
    ({"rope_scaling": LLAMA3 | {"high_freq_factor": 1.0}}, "high_freq_factor"),
    ({"rope_scaling": 3}, "rope_scaling"),
    ({"rope_scaling": LINEAR, "rope_parameters": YARN}, "rope_parameters"),
    ({"sliding_window": 0}, "sliding_window"),
    ({"sliding_window": -1}, "sliding_window"),
    ({"hidden_size": 25}, "embed_tokens"),
    ({"hidden_size": None}, "hidden_size"),
    ({"hidden_size": "24"}, "hidden_size"),
    ({"hidden_size": 24.0}, "hidden_size"),
    ({"num_attention_heads": 3}, "num_key_value_heads"),
    ({"num_key_value_heads": 3}, "num_key_value_heads"),
    ({"head_dim": 7}, "even"),
    ({"num_hidden_layers": 3}, "layers.2."),
    ({"num_hidden_layers": 1}, "layers.1."),
    ({"vocab_size": 65}, "vocab_size"),
    ({"rms_norm_eps": 0}, "rms_norm_eps"),
    ({"rope_theta": "10000"}, "rope_theta"),
    ({"eos_token_id": "2"}, "eos_token_id"),
    ({"eos_token_id": 64}, "64"),
    ({"eos_token_id": list(range(40))}, "eos_token_id"),
    ({"tie_word_embeddings": "no"}, "tie_word_embeddings"),
])
def test_a_configuration_is_refused_by_name(run, tmp_path, change, named):
    config = CONFIG | change
    with pytest.raises(ValueError, match=named):
        run(hf_files.directory(tmp_path / "m", config))


@pytest.mark.parametrize("change, named", [
    ({"sliding_window": 16}, "sliding_window"),
    ({"attention_bias": True}, "bias"),
    ({"mlp_bias": True}, "bias"),
])
def test_llama_is_refused_by_name(run, tmp_path, change, named):
    with pytest.raises(ValueError, match=named):
        run(hf_files.directory(tmp_path / "m", LLAMA | change))


@pytest.mark.parametrize("change, named", [
    ({"num_beams": 4}, "num_beams"), ({"no_repeat_ngram_size": 3}, "no_repeat_ngram_size"),
    ({"suppress_tokens": [1]}, "suppress_tokens"), ({"temperature": "hot"}, "temperature"),
    ({"min_p": 1.5}, "min_p"), ({"typical_p": "some"}, "typical_p"), ({"epsilon_cutoff": 0.1}, "epsilon_cutoff"),
    ({"eos_token_id": -1}, "eos_token_id")])
def test_generation_defaults_are_refused_by_name(run, tmp_path, change, named):
    with pytest.raises(ValueError, match=named):
        run(hf_files.directory(tmp_path / "m", generation_config_json=change))


def sampling(build, directory, *options, **request):
    with Zephd(build, directory, "--device", "reference", *options) as zephd, zephd.connect() as client:
        return client.call("complete", prompt=[1, 7], max_new_tokens=1, **request)["receipt"]["sampling"]


def test_generation_defaults_are_below_the_configuration_s_and_the_request_s(build, tmp_path):
    said = {"temperature": 0.5, "top_k": 0, "top_p": 0.75, "min_p": 0.125, "typical_p": 0.25,
            "repetition_penalty": 1.5}
    directory = hf_files.directory(tmp_path / "m", generation_config_json=said)
    found = sampling(build, directory, min_p=0.25)
    assert {name: found[name] for name in said} == said | {"min_p": 0.25}
    (tmp_path / "zephd.conf").write_text("defaults: { typical_p = 0.875; top_k = 7; };\n")
    found = sampling(build, directory, "--config", tmp_path / "zephd.conf")
    assert {name: found[name] for name in said} == said | {"typical_p": 0.875, "top_k": 7}
    found = sampling(build, hf_files.directory(tmp_path / "silent", generation_config_json={
        "min_p": None, "typical_p": 1.0, "top_k": None}))
    assert (found["min_p"], found["typical_p"], found["top_k"]) == (0, 1, 50)


def test_tensors_are_refused_by_name(run, tmp_path):
    tensors = hf_files.weights()
    cases = [
        (tensors | {"model.layers.0.self_attn.q_norm.weight": numpy.ones(8, "f4")}, "q_norm"),
        (tensors | {"model.layers.00.input_layernorm.weight": numpy.ones(24, "f4")}, "layers.00"),
        (tensors | {"model.layers.0.self_attn.q_proj.bias": numpy.ones(32, "f4")}, "q_proj.bias"),
        ({k: v for k, v in tensors.items() if k != "lm_head.weight"}, "lm_head"),
        ({k: v for k, v in tensors.items() if "layers.1.mlp.up" not in k}, "layers.1.mlp.up_proj"),
        (tensors | {"model.norm.weight": numpy.ones((1, 25), "f4")}, "model.norm.weight"),
    ]
    for i, (changed, named) in enumerate(cases):
        with pytest.raises(ValueError, match=named):
            run(hf_files.directory(tmp_path / str(i), tensors=changed))


def rewrite(path, change):
    raw = path.read_bytes()
    n = int.from_bytes(raw[:8], "little")
    header, data = raw[8:8 + n], raw[8 + n:]
    header, data = change(header, data)
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)


@pytest.mark.parametrize("change, named", [
    (lambda h, d: (h, d[:-1]), "complete"),
    (lambda h, d: (h, d + b"x"), "no tensor has"),
    (lambda h, d: (b" " + h, d), "begins no object"),
    (lambda h, d: (h.replace(b'"F32"', b'"F64"', 1), d), "F64"),
    (lambda h, d: (h.replace(b'"F32"', b'"I8"', 1), d), "I8"),
    (lambda h, d: (h.replace(b"[0,", b"[4,", 1), d), "bytes expected"),
    (lambda h, d: (h.replace(b"[0, ", b"[-1, ", 1), d), "data_offsets"),
    (lambda h, d: (h.replace(b'"shape": [64, 24]', b'"shape": [64, 9223372036854775807]', 1), d), "product"),
    (lambda h, d: (h.replace(b'"shape": [64, 24]', b'"shape": [1, 1, 1, 64, 24]', 1), d), "at most 4"),
    (lambda h, d: (h.replace(b'"model.norm.weight"', b'"model.embed_tokens.weight"', 1), d), "uplicate"),
    (lambda h, d: (h.replace(b'"format": "pt"', b'"format": 1', 1), d), "__metadata__"),
    (lambda h, d: (h.replace(b'"dtype"', b'"stride": 1, "dtype"', 1), d), "stride"),
    (lambda h, d: (b"[" * 100000, d), "begins no object"),
    (lambda h, d: (b'{"a":' + b"[" * 100000, d), "levels"),
    (lambda h, d: (b'{"a":[' + b"0," * 5000000, d), "values"),
])
def test_the_rules_of_safetensors(run, tmp_path, change, named):
    directory = hf_files.directory(tmp_path / "m")
    rewrite(directory / "model.safetensors", change)
    with pytest.raises(ValueError, match=named):
        run(directory)


@pytest.mark.parametrize("change, named", [
    (lambda index: index["weight_map"].update({"lm_head.weight": "../x.safetensors"}), "lm_head"),
    (lambda index: index["weight_map"].update({"lm_head.weight": "pytorch_model.bin"}), "lm_head"),
    (lambda index: index["weight_map"].update({"lm_head.weight": "absent.safetensors"}), "absent.safetensors"),
    (lambda index: index["weight_map"].pop("lm_head.weight"), "lm_head"),
    (lambda index: index["weight_map"].update({"more": "model-00001-of-00002.safetensors"}), "tensors expected"),
    (lambda index: index["weight_map"].update(
        {"model.embed_tokens.weight": "model-00002-of-00002.safetensors"}), "embed_tokens"),
    (lambda index: index.update({"weight_map": {}}), "weight_map"),
    (lambda index: index.update({"weight_map": []}), "weight_map"),
])
def test_the_index_must_be_what_the_files_hold(run, tmp_path, change, named):
    directory = hf_files.directory(tmp_path / "m", shards=2)
    path = directory / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))
    with pytest.raises(ValueError, match=named):
        run(directory)


def test_directories_that_are_no_models(run, tmp_path):
    with pytest.raises(ValueError, match="config.json"):
        run(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(ValueError, match="model.safetensors"):
        run(tmp_path)
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(ValueError, match="regular file"):
        run(tmp_path)


# --- the content hash

def content_hash(build, directory):
    with Zephd(build, directory, "--device", "reference") as zephd, zephd.connect() as client:
        for _ in range(1000):
            model = client.call("status")["model"]  # None while it loads
            if model and model["hash"]:
                return model["hash"]
            time.sleep(0.02)
    raise AssertionError("no hash")


def test_the_hash_tells_contents_and_not_layouts(build, tmp_path):
    directory = hf_files.directory(tmp_path / "m", shards=2)
    first = content_hash(build, directory)
    assert content_hash(build, hf_files.directory(tmp_path / "other")) == first
    assert content_hash(build, hf_files.directory(tmp_path / "more", LLAMA)) != first
    # a file is changed inside, its size and the directory are not
    path = directory / "model-00002-of-00002.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-2] ^= 1
    path.write_bytes(raw)
    assert content_hash(build, directory) != first
