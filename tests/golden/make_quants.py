"""Makes quants.bin: random blocks of every tensor type and what the package gguf says they mean.

The file: u32 number of types; for each u32 type, u32 elements, u32 bytes, the blocks, and the
values as f32. Little-endian throughout. Usage: make_quants.py [OUT]
"""

import pathlib
import struct
import sys

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as T
from gguf.quants import dequantize

# Where a block's f16 scales stand.
SCALES = {
    T.Q8_0: [0], T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2],
    T.Q2_K: [80, 82], T.Q3_K: [108], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208],
    T.IQ4_NL: [0], T.IQ4_XS: [0],
}  # fmt: skip
# Zeros, the smallest subnormal, the largest of them, the smallest normal, the largest, 1, infinity.
EXTREME = [0x0000, 0x8000, 0x0001, 0x83FF, 0x0400, 0x7BFF, 0xFBFF, 0x3C00, 0x7C00]


def blocks_of(qtype, rng):
    elements, size = GGML_QUANT_SIZES[qtype]
    n = 12 if elements == 256 else 24
    raw = rng.integers(0, 256, (n, size), dtype=np.uint8)
    for k, offset in enumerate(SCALES[qtype]):
        scale = rng.normal(0, 0.05, n).astype(np.float16).view(np.uint16)
        scale[: len(EXTREME)] = np.roll(EXTREME, k)
        raw[:, offset : offset + 2] = scale.astype("<u2").reshape(-1, 1).view(np.uint8)
    # The extremes of the numbers themselves.
    raw[-1, : size if not SCALES[qtype] else SCALES[qtype][0]] = 0xFF
    return raw.reshape(1, -1), n * elements


def halves(rng, nan):
    h = np.concatenate([rng.integers(0, 65536, 300), EXTREME]).astype(np.uint16)
    h[(h & nan) == nan] &= 0x8FFF
    return h.astype("<u2").reshape(1, -1).view(np.uint8), len(h)


def main():
    out = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent / "quants.bin"
    rng = np.random.default_rng(20240501)
    sections = []
    for qtype in [T.F16, T.BF16, *SCALES]:
        if qtype == T.F16:
            raw, n = halves(rng, 0x7C01)
        elif qtype == T.BF16:
            raw, n = halves(rng, 0x7F80)
        else:
            raw, n = blocks_of(qtype, rng)
        with np.errstate(all="ignore"):
            values = dequantize(raw, qtype).astype("<f4").reshape(-1)
        assert values.size == n
        data = raw.tobytes()
        sections.append(struct.pack("<III", int(qtype), n, len(data)) + data + values.tobytes())
    out.write_bytes(struct.pack("<I", len(sections)) + b"".join(sections))


if __name__ == "__main__":
    main()
