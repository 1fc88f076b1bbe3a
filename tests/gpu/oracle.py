"""transformers' part of the GPU suite, in a process of its own (its imports and memory go with it).

  oracle.py make DIR CONFIG POSITIONS       a random Mistral model in bf16, and ids to run it on
  oracle.py compare DIR LOGITS RESULT       LOGITS (f32 [n, vocab]) and its own bf16 run against f32
  oracle.py speed SHAPE GENERATE            tokens/s on the card; exit 77 where torch sees none"""

import json
import pathlib
import sys
import time

import torch
from transformers import MistralConfig, MistralForCausalLM

ZEPHYR = dict(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
              num_attention_heads=32, num_key_value_heads=8, vocab_size=32000)
TINY = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, vocab_size=256)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def make(directory, config, positions):
    config = MistralConfig(**json.loads(config), sliding_window=None, max_position_embeddings=4096,
                           tie_word_embeddings=False, initializer_range=0.05, bos_token_id=1,
                           eos_token_id=2)
    torch.manual_seed(1)
    model = MistralForCausalLM(config).to(torch.bfloat16)
    model.lm_head.weight.data.mul_(4)  # choices as decided as a trained model's
    model.save_pretrained(directory, safe_serialization=True)
    ids = torch.randint(config.vocab_size, (int(positions),), dtype=torch.int32)
    (pathlib.Path(directory) / "tokens").write_bytes(ids.numpy().tobytes())


def run(directory, dtype, ids):
    model = MistralForCausalLM.from_pretrained(directory, dtype=dtype).to(DEVICE).eval()
    with torch.inference_mode():
        return model(ids.to(DEVICE)[None]).logits[0].float().cpu().double()


def against(wanted, got):
    wanted, got = wanted.log_softmax(-1), got.log_softmax(-1)
    return {"kl": (wanted.exp() * (wanted - got)).sum(-1).mean().item(),
            "flips": int((wanted.argmax(-1) != got.argmax(-1)).sum())}


def compare(directory, logits, result):
    torch.backends.cuda.matmul.allow_tf32 = False
    ids = torch.frombuffer(bytearray((pathlib.Path(directory) / "tokens").read_bytes()),
                           dtype=torch.int32).long()
    wanted = run(directory, torch.float32, ids)
    zeph = torch.frombuffer(bytearray(pathlib.Path(logits).read_bytes()), dtype=torch.float32)
    pathlib.Path(result).write_text(json.dumps({
        "positions": len(ids), "zeph": against(wanted, zeph.reshape(wanted.shape).double()),
        "transformers bf16": against(wanted, run(directory, torch.bfloat16, ids))}))


def speed(shape, generate):
    if DEVICE != "cuda":
        sys.exit(77)
    config = MistralConfig(**(ZEPHYR if shape == "zephyr-7b" else TINY), sliding_window=None)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = MistralForCausalLM(config).eval()
    ids = torch.randint(config.vocab_size, (1, 512), device="cuda")
    found, n = {}, int(generate)

    def timed(new):
        torch.cuda.synchronize()
        began = time.perf_counter()
        model.generate(ids, max_new_tokens=new, min_new_tokens=new, do_sample=False,
                       pad_token_id=0)
        torch.cuda.synchronize()
        return time.perf_counter() - began

    with torch.inference_mode():
        timed(2)
        first = min(timed(1) for _ in range(3))
        found["pp512"] = 512 / first
        found[f"tg{n}@d512"] = n / (min(timed(n + 1) for _ in range(3)) - first)
    print(json.dumps(found))


globals()[sys.argv[1]](*sys.argv[2:])
