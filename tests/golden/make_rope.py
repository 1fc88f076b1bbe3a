#!/usr/bin/env python3
"""Writes rope.inc: cosines and sines as f32 arithmetic in numpy gives them.

The angles are computed as transformers 4.57.6 does (LlamaRotaryEmbedding): inv_freq in f32, one f32
product with the position. The power, cos and sin are computed in double and rounded to f32 once:
PyTorch's power is that in all but about one entry of 600, numpy's own f32 power in nine of ten."""
import pathlib

import numpy as np

CASES = [  # rope_dim, theta
    (64, 10000.0),
    (64, 100000.0),
    (128, 10000.0),
    (128, 1000000.0),
    (2, 10000.0),
]
POSITIONS = [0, 1, 2, 15, 16, 17, 127, 128, 4095, 4096, 32767]


def main():
    lines = ["/* Made by make_rope.py: rope_dim, theta, position, pair, cosine, sine. */"]
    for dim, theta in CASES:
        exponent = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
        power = np.power(np.float64(theta), exponent.astype(np.float64)).astype(np.float32)
        inv_freq = np.float32(1) / power
        half = dim // 2
        pairs = sorted({0, 1, half // 3, half // 2, half - 2, half - 1} & set(range(half)))
        for position in POSITIONS:
            for pair in pairs:
                angle = np.float64(np.float32(position) * inv_freq[pair])
                cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
                lines.append(
                    f"{{{dim}, {theta:.1f}f, {position}, {pair}, "
                    f"{float(cosine).hex()}f, {float(sine).hex()}f}},"
                )
    path = pathlib.Path(__file__).with_name("rope.inc")
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
