"""Random models in transformers' own files, scaled so that a fault in any operation shows.

With transformers' initialisation (0.02) removing RoPE hardly moves the logits. With weights of
2/sqrt(fan_in), unit embeddings, norms and biases that are not 1 and 0, theta off by 1% moves logprobs by
half a standard deviation of the logits.
"""

import dataclasses
import json
import math
import random

import torch
import transformers

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

ARCHITECTURES = {
    "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM),
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
}
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}

LINEAR = {"rope_type": "linear", "factor": 4.0}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
YARN_MSCALE = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 96, "beta_fast": 24.0,
               "beta_slow": 1.5, "mscale": 1.0, "mscale_all_dim": 0.7, "truncate": False}
YARN_FACTOR = {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 4096,
               "attention_factor": 1.3}


@dataclasses.dataclass
class Spec:
    name: str
    architecture: str
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int = 96
    ffn: int = 160
    layers: int = 2
    vocab: int = 500
    window: int | None = None
    tied: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    rope: dict | None = None
    theta: float = 10000.0
    dtype: str = "f32"
    sharded: bool = False
    context: int = 65536
    eps: float = 1e-4  # ten times what models have: their own x 10 moves three to five bars only

    def __str__(self):
        return self.name


# 64 prompt and 60 generated positions: windows below 64 slide in the prompt, those of 64 to 124 during
# generation.
SPECS = [
    Spec("mistral, one query a key", "mistral", 4, 4, 32, window=24),
    Spec("mistral, window slides while generating", "mistral", 4, 2, 64, window=90, dtype="bf16"),
    Spec("mistral, no window", "mistral", 8, 2, 32, dtype="f16", sharded=True),
    Spec("mistral, eight queries a key", "mistral", 8, 1, 64, window=63, vocab=32000, dtype="bf16",
         sharded=True),
    Spec("mistral, wide heads, tied", "mistral", 2, 1, 128, window=40, tied=True),
    Spec("mistral, linear", "mistral", 4, 2, 48, window=100, rope=LINEAR, dtype="bf16"),
    Spec("mistral, yarn", "mistral", 4, 1, 64, window=17, rope=YARN),
    Spec("llama, plain", "llama", 4, 4, 32, dtype="f16"),
    Spec("llama, biases everywhere", "llama", 4, 2, 32, attention_bias=True, mlp_bias=True),
    Spec("llama, tied, large theta", "llama", 8, 2, 40, tied=True, theta=500000.0, dtype="bf16", vocab=8000),
    Spec("llama, llama3", "llama", 8, 1, 64, rope=LLAMA3, theta=500000.0, dtype="bf16", sharded=True),
    Spec("llama, linear, attention biases", "llama", 4, 2, 64, rope=LINEAR, attention_bias=True,
         dtype="f16"),
    Spec("llama, yarn with mscale", "llama", 6, 3, 96, rope=YARN_MSCALE, vocab=1031),
    Spec("llama, yarn with its factor, old keys", "llama", 2, 2, 128, rope=YARN_FACTOR, mlp_bias=True,
         sharded=True),
]

# Two layers see 2 (window - 1) positions back: what transformers must be fed to be exact at the end.
FAR = [
    Spec(f"mistral at 32000, {name}", "mistral", 2, 1, 64, hidden=48, ffn=64, window=32, rope=rope, vocab=500)
    for name, rope in [("unscaled", None), ("linear", LINEAR), ("llama3", LLAMA3 | {
        "original_max_position_embeddings": 8192}), ("yarn", YARN | {"original_max_position_embeddings": 8192})]
]
LONG = Spec("llama, 5000 tokens", "llama", 4, 1, 32, hidden=64, ffn=96)


def make(spec, seed, directory, max_shard_size="150KB"):
    """Writes the model and returns its directory."""
    config_class, model_class = ARCHITECTURES[spec.architecture]
    extra = {"sliding_window": spec.window} if spec.architecture == "mistral" else {
        "attention_bias": spec.attention_bias, "mlp_bias": spec.mlp_bias}
    config = config_class(
        vocab_size=spec.vocab, hidden_size=spec.hidden, intermediate_size=spec.ffn,
        num_hidden_layers=spec.layers, num_attention_heads=spec.heads, num_key_value_heads=spec.kv_heads,
        head_dim=spec.head_dim, max_position_embeddings=spec.context, rms_norm_eps=spec.eps,
        rope_theta=spec.theta, rope_scaling=spec.rope and dict(spec.rope), tie_word_embeddings=spec.tied,
        **extra)
    model = model_class(config)
    generator = torch.Generator().manual_seed(random.Random(f"{seed} {spec.name}").getrandbits(63))
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.normal_(0, 1, generator=generator)
            if name.endswith("norm.weight"):
                p.mul_(0.1).add_(1)
            elif name.endswith("bias"):
                p.mul_(0.3)
            elif "embed_tokens" not in name:
                p.mul_(2 / math.sqrt(p.shape[1]))
    model.to(DTYPES[spec.dtype]).save_pretrained(
        directory, **({"max_shard_size": max_shard_size} if spec.sharded else {}))
    shards = list(directory.glob("*.safetensors"))
    assert len(shards) > 1 if spec.sharded else len(shards) == 1
    if "type" in (spec.rope or {}):  # as files of 2024 have it
        config = json.loads((directory / "config.json").read_text())
        config["rope_scaling"] = spec.rope
        (directory / "config.json").write_text(json.dumps(config))
    return directory


def load(spec, directory, **changes):
    """The model in f32, with some of its configuration changed."""
    config_class, model_class = ARCHITECTURES[spec.architecture]
    config = config_class.from_pretrained(directory, **changes)
    return model_class.from_pretrained(directory, config=config, dtype=torch.float32,
                                       attn_implementation="eager").eval()


def tokens(spec, seed, n):
    draw = random.Random(f"{seed} {spec.name} tokens")
    return [draw.randrange(spec.vocab) for _ in range(n)]


def logits(model, ids, first=0):
    """[n, vocab] f32; the first token stands at position `first`."""
    with torch.inference_mode():
        return model(torch.tensor([ids]), position_ids=torch.arange(first, first + len(ids))[None],
                     use_cache=False).logits[0].numpy()


def continue_greedily(model, prompt, n):
    with torch.inference_mode():
        out = model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                             max_new_tokens=n, min_new_tokens=n, do_sample=False, eos_token_id=None,
                             pad_token_id=0)
    return out[0, len(prompt):].tolist()


# Faults: each makes of a right model a wrong one.

def swap_kv_heads(model, spec):
    d = spec.head_dim
    with torch.no_grad():
        for layer in model.model.layers:
            for matrix in (layer.self_attn.k_proj.weight, layer.self_attn.v_proj.weight):
                matrix[:2 * d] = torch.cat([matrix[d:2 * d], matrix[:d]])


def pair_wrongly(model, spec):
    """As if neighbours were pairs: the rows in the order that interleaved rotation wants."""
    d = spec.head_dim
    order = torch.arange(d).reshape(d // 2, 2).T.reshape(d)
    with torch.no_grad():
        for layer in model.model.layers:
            for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj):
                for p in projection.parameters():
                    p.copy_(p.reshape(-1, d, *p.shape[1:])[:, order].reshape(p.shape))


def faults(spec):
    """{name: (changed configuration, change of the model)} that apply to it."""
    found = {
        "theta x 0.99": ({"rope_theta": spec.theta * 0.99}, None),
        "eps x 10": ({"rms_norm_eps": spec.eps * 10}, None),
        "wrong pairing": ({}, pair_wrongly),
    }
    if spec.window:
        found["window + 1"] = ({"sliding_window": spec.window + 1}, None)
        found["window - 1"] = ({"sliding_window": spec.window - 1}, None)
    if spec.kv_heads > 1:
        found["KV heads swapped"] = ({}, swap_kv_heads)
    return found
