"""What the sampler leaves is what transformers leaves, live: other rows with each --seed.

tests/unit/test-sample.c holds it to committed ones."""

import random
import struct
import subprocess

import pytest

pytestmark = pytest.mark.reference


def packed(row):
    vocab = len(row["logits"])
    biases = [row.get("bias", {}).get(t, 0) for t in range(vocab)]
    marks = [0] * vocab
    for t in row["prompt"] + row["reply"]:
        marks[t] |= 1
    for t in row.get("suppress", []):
        marks[t] |= 2
    return (struct.pack("=5fI", row.get("repetition_penalty", 1), row.get("temperature", 1),
                        row.get("top_p", 1), row.get("min_p", 0), row.get("typical_p", 1),
                        row.get("top_k", 0)) +
            struct.pack(f"={2 * vocab}f", *row["logits"], *biases) + bytes(marks))


def run_zeph(build, rows):
    vocab = len(rows[0]["logits"])
    done = subprocess.run([build / "tests/tool/zeph-sample", str(vocab)], check=True,
                          input=b"".join(map(packed, rows)), capture_output=True).stdout
    return [struct.unpack_from(f"={vocab}f", done, 4 * vocab * i) for i in range(len(rows))]


def compare(rows, scores, answers):
    import torch

    for row, left, got in zip(rows, scores, answers, strict=True):
        wanted = torch.softmax(left.double(), -1).tolist()
        settings = {k: v for k, v in row.items() if k not in ("logits", "prompt", "reply", "suppress")}
        survivors = [t for t, score in enumerate(left.tolist()) if score > float("-inf")]
        # 1e-38 and less is 0 in f32
        kept = [t for t, p in enumerate(got) if p > 0 or (wanted[t] and wanted[t] < 1e-37)]
        assert kept == survivors, settings
        # f32 logits divided by a temperature: relative error about 2^-24 times the exponent
        assert all(abs(p - q) <= 1e-5 * q + 1e-37 for p, q in zip(got, wanted, strict=True)), settings


@pytest.mark.parametrize("ties", [False, True])
def test_small_rows(build, seed, ties):
    import sampling_oracle

    rng = random.Random(seed)
    names = [name for name in sampling_oracle.NAMES if not ties or name != "top_p"]
    kinds = [{name} for name in names for _ in range(20)]
    kinds += [sampling_oracle.some_of(rng, names) for _ in range(500)]
    rows, scores = zip(*(sampling_oracle.case(rng, which, sampling_oracle.logits_of(rng, 48, ties))
                         for which in kinds), strict=True)
    compare(rows, scores, run_zeph(build, rows))


def test_rows_of_a_model(build, seed):
    """32,000 logits, in f32. Sums of that many differ by about 1e-6 between any two programs, so a
    token nearer than that to a border may go either way: the cuts by mass stay out."""
    import sampling_oracle

    rng = random.Random(seed + 1)
    names = [name for name in sampling_oracle.NAMES if name not in ("top_p", "typical_p")]
    kinds = [{name} for name in names for _ in range(3)]
    kinds += [sampling_oracle.some_of(rng, names) for _ in range(20)]
    rows, scores = zip(*(sampling_oracle.case(rng, which, sampling_oracle.normal_logits(rng, 32000))
                         for which in kinds), strict=True)
    compare(rows, scores, run_zeph(build, rows))


@pytest.mark.parametrize("name", ["top_p", "typical_p"])
def test_cuts_by_mass_in_rows_of_a_model(build, seed, name):
    """The survivors are the same up to tokens that hold less than 1e-5 together."""
    import sampling_oracle

    rng = random.Random(seed + 2)
    for _ in range(12):
        row, left = sampling_oracle.case(rng, {name, "temperature"},
                                         sampling_oracle.normal_logits(rng, 32000))
        got, = run_zeph(build, [row])
        wanted = left.double().softmax(-1).tolist()
        assert sum(max(p, q) for p, q in zip(got, wanted, strict=True)
                   if (p > 0) != (q > 0)) < 1e-5, row[name]
