"""Blocks against the package gguf: dequantised bits for every type, quantised bytes where it quantises."""

import os
import pathlib
import subprocess

import gguf
import numpy as np
import pytest

BUILD = pathlib.Path(os.environ.get("ZEPH_BUILD", pathlib.Path(__file__).parent.parent / "build"))
LEGACY = ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]
K_TYPES = ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"]
RMS_BOUND = {"Q2_K": 0.36, "Q3_K": 0.19, "Q4_K": 0.085, "Q5_K": 0.043, "Q6_K": 0.021,
             "IQ4_NL": 0.09, "IQ4_XS": 0.09}


def zeph(name, mode, data):
    tool = BUILD / "tests" / "tool" / "zeph-quants"
    return subprocess.run([tool, name.lower(), mode], input=data, stdout=subprocess.PIPE, check=True).stdout


def numbers(seed):
    """Rows of many scales, with zeroes, repeats and exact halves of a step among them."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(256 * 512).astype(np.float32)
    x *= np.repeat(np.exp2(rng.integers(-12, 8, 512)).astype(np.float32), 256)
    x[:256] = 0
    x[256:512] = np.arange(256, dtype=np.float32) / 2
    x[512:768] = rng.integers(-3, 4, 256).astype(np.float32)
    return x


@pytest.mark.parametrize("name", LEGACY)
def test_quantised_bytes_equal(name):
    x = numbers(1)
    wanted = gguf.quants.quantize(x, gguf.GGMLQuantizationType[name]).tobytes()
    assert zeph(name, "quantize", x.tobytes()) == wanted


@pytest.mark.parametrize("name", LEGACY + K_TYPES)
def test_dequantised_bits_equal(name):
    kind = gguf.GGMLQuantizationType[name]
    row = np.frombuffer(zeph(name, "quantize", numbers(2).tobytes()), np.uint8)
    wanted = gguf.quants.dequantize(row, kind)
    got = np.frombuffer(zeph(name, "dequantize", row.tobytes()), np.float32)
    assert np.array_equal(got.view(np.uint32), wanted.reshape(-1).view(np.uint32))


@pytest.mark.parametrize("name", K_TYPES)
def test_k_types_keep_their_quality(name):
    """A normal distribution: bounds as in tests/unit/test-quantize.c."""
    x = np.random.default_rng(3).standard_normal(256 * 256).astype(np.float32)
    row = np.frombuffer(zeph(name, "quantize", x.tobytes()), np.uint8)
    y = gguf.quants.dequantize(row, gguf.GGMLQuantizationType[name]).reshape(-1)
    assert np.sqrt(np.mean((x - y) ** 2) / np.mean(x**2)) < RMS_BOUND[name]
