"""Makes sampling.json: what transformers' processors and warpers leave of given logits.

Run with tests/requirements-reference.txt installed: PYTHONPATH=tests python3 tests/golden/make_sampling.py
Where logits are equal, top_p stays out: which of equal ones it cuts is up to torch's sort."""

import json
import pathlib
import random

import sampling_oracle
import torch

VOCAB = 48


def rows():
    rng = random.Random(20261124)
    names = sampling_oracle.NAMES
    tied = [name for name in names if name != "top_p"]
    for which, ties in ([({name}, False) for name in names for _ in range(8)] +
                        [(sampling_oracle.some_of(rng, names), False) for _ in range(100)] +
                        [({name}, True) for name in ("top_k", "min_p", "typical_p") for _ in range(8)] +
                        [(sampling_oracle.some_of(rng, tied), True) for _ in range(60)]):
        row, scores = sampling_oracle.case(rng, which, sampling_oracle.logits_of(rng, VOCAB, ties))
        row["probabilities"] = [float(f"{p:.7g}") for p in torch.softmax(scores, -1).tolist()]
        yield row


out = pathlib.Path(__file__).with_name("sampling.json")
out.write_text("[\n" + ",\n".join(json.dumps(r, separators=(",", ":")) for r in rows()) + "\n]\n")
