"""Rows of logits with sampling settings, and what the processors and warpers of transformers leave
of them. Needs torch and transformers 4.57.6."""

import torch
from transformers.generation import logits_process as lp

NAMES = ["bias", "repetition_penalty", "suppress", "temperature", "top_k", "top_p", "min_p", "typical_p"]


def logits_of(rng, vocab, ties):
    """Small dyadic numbers, which JSON holds exactly."""
    if ties:
        return [rng.randrange(-24, 24) / 4 for _ in range(vocab)]
    spread = rng.choice([4, 32, 96])
    return [x / 32 for x in rng.sample(range(-spread * 8, spread * 8), vocab)]


def normal_logits(rng, vocab):
    """As a model's: f32, a few far above the rest."""
    scale = rng.choice([1, 2, 4])
    made = torch.randn(vocab, generator=torch.Generator().manual_seed(rng.randrange(2**31))) * scale
    return made.tolist()


def case(rng, which, logits):
    """A row and the scores that are left of it, f32 [vocab]: in the order of generate()."""
    vocab = len(logits)
    prompt = [rng.randrange(vocab) for _ in range(rng.randrange(1, 9))]
    reply = [rng.randrange(vocab) for _ in range(rng.randrange(0, 9))]
    row = {"logits": logits, "prompt": prompt, "reply": reply}
    scores, ids = torch.tensor([logits]), torch.tensor([prompt + reply])
    if "bias" in which:
        row["bias"] = {rng.randrange(vocab): rng.randrange(-64, 64) / 16 for _ in range(3)}
        scores = lp.SequenceBiasLogitsProcessor({(k,): v for k, v in row["bias"].items()})(
            ids, scores)
    if "repetition_penalty" in which:
        row["repetition_penalty"] = rng.choice([0.75, 1.0625, 1.25, 2.0])
        scores = lp.RepetitionPenaltyLogitsProcessor(row["repetition_penalty"])(ids, scores)
    if "suppress" in which:
        row["suppress"] = sorted(rng.sample(range(vocab), rng.choice([1, vocab // 2, vocab - 1])))
        scores = lp.SuppressTokensLogitsProcessor(row["suppress"])(ids, scores)
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
    return row, scores[0]


def some_of(rng, names):
    return {name for name in names if rng.random() < 0.6}
