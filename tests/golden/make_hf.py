#!/usr/bin/env python3
"""Makes tests/golden/hf/: two small models in transformers' own files, and what transformers says of them.

    $(tests/python-env tests/requirements-reference.txt) tests/golden/make_hf.py
"""

import pathlib
import shutil
import sys

import numpy

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import random_models  # noqa: E402

SMALL = {"hidden": 16, "ffn": 24, "vocab": 61, "context": 256, "layers": 2}
SPECS = {
    "mistral": random_models.Spec("golden mistral", "mistral", 4, 2, 8, window=12, rope=random_models.YARN,
                                  dtype="bf16", sharded=True,
                                  **SMALL),
    "llama": random_models.Spec("golden llama", "llama", 2, 1, 8, rope=random_models.LLAMA3, tied=True,
                                attention_bias=True, mlp_bias=True, dtype="f16", **SMALL),
}
N = 40


def main():
    shutil.rmtree(HERE / "hf", ignore_errors=True)
    for name, spec in SPECS.items():
        directory = HERE / "hf" / name
        random_models.make(spec, 1, directory, max_shard_size="6KB")
        ids = random_models.tokens(spec, 1, N)
        logits = random_models.logits(random_models.load(spec, directory), ids)
        numpy.save(HERE / "hf" / f"{name}-tokens.npy", numpy.array(ids, "<u4"))
        numpy.save(HERE / "hf" / f"{name}-logits.npy", logits.astype("<f4"))


if __name__ == "__main__":
    main()
