"""Makes sampling.json: what transformers' processors and warpers leave of given logits.

Run with transformers 4.57.6 and torch installed: python3 tests/golden/make_sampling.py
Logits are small dyadic numbers so that JSON holds them exactly; none are equal, so that the order of ties
(ours goes by token id) does not matter."""

import json
import pathlib
import random

import torch
from transformers.generation import logits_process as lp

VOCAB = 48


def logits_of(rng):
    spread = rng.choice([4, 32, 96])
    return [x / 32 for x in rng.sample(range(-spread * 8, spread * 8), VOCAB)]


def case(rng, which):
    logits = logits_of(rng)
    prompt = [rng.randrange(VOCAB) for _ in range(rng.randrange(1, 9))]
    reply = [rng.randrange(VOCAB) for _ in range(rng.randrange(0, 9))]
    row = {"logits": logits, "prompt": prompt, "reply": reply}
    scores = torch.tensor([logits])
    ids = torch.tensor([prompt + reply])
    if "bias" in which:
        row["bias"] = {rng.randrange(VOCAB): rng.randrange(-64, 64) / 16 for _ in range(3)}
        processor = lp.SequenceBiasLogitsProcessor({(k,): v for k, v in row["bias"].items()})
        scores = processor(ids, scores)
    if "repetition" in which:
        row["repetition_penalty"] = rng.choice([0.75, 1.0625, 1.25, 2.0])
        scores = lp.RepetitionPenaltyLogitsProcessor(row["repetition_penalty"])(ids, scores)
    for name, cls, values in (
        ("temperature", lp.TemperatureLogitsWarper, [0.25, 0.5, 0.75, 1.5, 2.0]),
        ("top_k", lp.TopKLogitsWarper, [1, 2, 5, 20, 47, 48]),
        ("top_p", lp.TopPLogitsWarper, [0.1, 0.5, 0.9, 0.95, 0.99]),
        ("min_p", lp.MinPLogitsWarper, [0.01, 0.05, 0.1, 0.5]),
        ("typical_p", lp.TypicalLogitsWarper, [0.1, 0.5, 0.9, 0.95]),
    ):
        if name in which:
            row[name] = rng.choice(values)
            scores = cls(row[name])(ids, scores)
    row["probabilities"] = [float(f"{p:.7g}") for p in torch.softmax(scores, -1)[0].tolist()]
    return row


def main():
    rng = random.Random(20261124)
    names = ["bias", "repetition", "temperature", "top_k", "top_p", "min_p", "typical_p"]
    rows = [case(rng, {name}) for name in names for _ in range(8)]
    rows += [case(rng, {n for n in names if rng.random() < 0.6}) for _ in range(120)]
    out = pathlib.Path(__file__).with_name("sampling.json")
    out.write_text("[\n" + ",\n".join(json.dumps(r, separators=(",", ":")) for r in rows) + "\n]\n")


main()
