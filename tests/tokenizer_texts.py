"""Texts that tokenizers are compared on: committed ones and ones made from a fixed seed, by kind."""

import json
import pathlib
import random
import unicodedata

SEED = 20240229

SAMPLES = json.loads(
    (pathlib.Path(__file__).parent / "data" / "texts.json").read_text(encoding="utf-8"))
ALL_SAMPLES = [text for kind in sorted(SAMPLES) for text in SAMPLES[kind]]

# Characters as Unicode 3.2 knew them: the same ones with every version of Python.
ASSIGNED = [chr(c) for c in range(0x110000)
            if unicodedata.ucd_3_2_0.category(chr(c)) not in ("Cn", "Cs", "Co")]
CJK = [chr(c) for c in range(0x4e00, 0x9fa6)]
HANGUL = [chr(c) for c in range(0xac00, 0xd7a4)]
BLANKS = [" ", "  ", "   ", "\n", "\t", "\r\n", "\r", "\n\n", "\u00a0", "\u3000", " \n", "\t ", "\v", "\f"]


def _slices(rng, n):
    """Pieces of the samples, cut at any character, strung together."""
    for _ in range(n):
        parts = []
        for _ in range(rng.randint(1, 6)):
            text = rng.choice(ALL_SAMPLES)
            start = rng.randint(0, len(text))
            parts.append(text[start:rng.randint(start, len(text))])
        yield rng.choice(["", " ", "\n", "  "]).join(parts)


def _random_characters(rng, n):
    pools = [ASSIGNED, CJK, HANGUL, [chr(c) for c in range(32, 127)], [chr(c) for c in range(0x250)],
             BLANKS + list("abc123'.,!?")]
    for _ in range(n):
        pool = rng.choice(pools)
        yield "".join(rng.choice(pool if rng.random() < 0.8 else rng.choice(pools))
                      for _ in range(rng.randint(1, 80)))


def _code(rng, n):
    lines = [line for text in SAMPLES["code"] for line in text.splitlines()]
    for _ in range(n):
        yield "\n".join(rng.choice(["", "\t", "    ", "        ", "\t\t"]) + rng.choice(lines)
                        for _ in range(rng.randint(1, 12)))


def _control(rng, n):
    characters = [chr(c) for c in [*range(32), 127, *range(128, 160)]]
    for _ in range(n):
        yield "".join(rng.choice(characters) if rng.random() < 0.5 else rng.choice("ab 1\n")
                      for _ in range(rng.randint(1, 60)))


def _runs(rng, n):
    for _ in range(n):
        yield "".join(rng.choice(BLANKS + ["a", "1", ".", "é", "你", "🙂"]) * rng.randint(1, 40)
                      for _ in range(rng.randint(1, 8)))


def _emoji(rng, n):
    marks = [c for text in SAMPLES["emoji"] for c in text]
    for _ in range(n):
        yield "".join(rng.choice(marks) for _ in range(rng.randint(1, 40)))


def _invalid(rng, n):
    """Bytes: valid text with bytes changed, dropped and put in, and pure noise."""
    bad = [0x80, 0xbf, 0xc0, 0xc1, 0xc2, 0xdf, 0xe0, 0xed, 0xef, 0xf0, 0xf1, 0xf4, 0xf5, 0xff]
    for text in _slices(rng, n):
        raw = bytearray(text.encode())
        if rng.random() < 0.2:
            raw = bytearray(rng.randbytes(rng.randint(1, 60)))
        for _ in range(rng.randint(1, 6)):
            at = rng.randint(0, len(raw))
            action = rng.randrange(3)
            if action == 0:
                raw.insert(at, rng.choice(bad))
            elif at < len(raw) and action == 1:
                del raw[at]
            elif at < len(raw):
                raw[at] = rng.randrange(256)
        yield bytes(raw)


def _long_lines(rng):
    """Lines of 100 kB."""
    size = 100_000
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(rng.choice(letters) for _ in range(rng.randint(1, 12))) for _ in range(3000)]
    yield " " * size
    yield "a" * size
    yield "ab" * (size // 2)
    yield "A" * size
    yield "\n" * size
    yield "\t" * size
    yield "1" * size
    yield "." * size
    yield "\u2581" * (size // 3)
    yield "\u3000" * (size // 3)
    yield "\u4f60\u597d" * (size // 6)
    yield "\U0001f642" * (size // 4)
    yield "a " * (size // 2)
    yield " \n" * (size // 2)
    yield "".join(rng.choice(letters) for _ in range(size))
    yield "".join(rng.choice(CJK) for _ in range(size // 3))
    yield "".join(rng.choice(ASSIGNED) for _ in range(size // 3))
    yield " ".join(rng.choice(words) for _ in range(size // 7))
    yield " ".join(rng.choice(ALL_SAMPLES) for _ in range(size // 60))


def texts():
    """{kind: [bytes]}, always the same."""
    rng = random.Random(SEED)
    made = {
        "sliced": _slices(rng, 700),
        "random characters": _random_characters(rng, 500),
        "generated code": _code(rng, 200),
        "control characters": _control(rng, 200),
        "runs": _runs(rng, 250),
        "generated emoji": _emoji(rng, 150),
        "invalid UTF-8": _invalid(rng, 400),
        "long lines": _long_lines(rng),
    }
    kinds = {kind: list(samples) for kind, samples in SAMPLES.items()}
    kinds.update({kind: list(some) for kind, some in made.items()})
    return {kind: [t if isinstance(t, bytes) else t.encode() for t in some]
            for kind, some in kinds.items()}


def ten_thousand():
    """10,000 (language or "code", text): the samples cut, mixed, repeated and broken."""
    rng = random.Random(SEED + 1)
    sources = [(f"language {i}", text) for i, text in enumerate(SAMPLES["languages"])]
    sources += [("code", text) for text in SAMPLES["code"]]
    inserts = BLANKS + SAMPLES["specials"] + SAMPLES["emoji"] + ["\u2581", "\0", "\u200d", "\ufeff", "e\u0301", "12345"]
    changes = [str.upper, str.lower, str.title, str.swapcase, lambda t: t[::-1], lambda t: t * 2,
               lambda t: t.replace(" ", ""), lambda t: t.replace(" ", "  "), lambda t: "\n".join(t.split()),
               lambda t: unicodedata.normalize("NFD", t), lambda t: t, lambda t: t, lambda t: t]

    def made(kind, text):
        start = rng.randint(0, len(text))
        text = rng.choice(changes)(text[start:start + rng.randint(1, 160)])
        for _ in range(rng.choice([0, 0, 0, 1, 2, 5])):
            at = rng.randint(0, len(text))
            text = text[:at] + rng.choice(inserts) + text[at + rng.choice([0, 0, 1, 3]):]
        return kind, text

    return [made(*sources[i % len(sources)]) for i in range(10_000)]
