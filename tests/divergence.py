"""Logits of whole texts, with no daemon between, and how far two distributions over them are apart."""

import os
import subprocess

import numpy


def logits(build, model, directory, tokens, *options):
    """[n, vocab] f32 of one pass over the tokens."""
    tokens_path, out = directory / "tokens", directory / "logits"
    numpy.asarray(tokens, "<u4").tofile(tokens_path)
    subprocess.run([build / "tests/tool/zeph-logits", "--model", model, "--tokens", tokens_path,
                    "--out", out, *options], check=True, timeout=1200)
    values = numpy.fromfile(out, "<f4").reshape(len(tokens), -1)
    os.unlink(out)
    return values


def log_softmax(rows):
    rows = rows.astype(numpy.float64)
    rows -= rows.max(-1, keepdims=True)
    return rows - numpy.log(numpy.exp(rows).sum(-1, keepdims=True))


def mean_kl(of, to):
    """Mean over positions of KL(of || to)."""
    total = 0.0
    for start in range(0, len(of), 64):  # in pieces, for the memory's sake
        p, q = log_softmax(of[start:start + 64]), log_softmax(to[start:start + 64])
        total += float((numpy.exp(p) * (p - q)).sum())
    return total / len(of)
