"""What tests/bench/tokenize runs: tokenizer_speed.py BUILD MODEL."""

import pathlib
import struct
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import test_tokenizers  # noqa: E402

SIZE = 1 << 20
LIMIT = 0.3
TEXTS = test_tokenizers.TEXTS
# Text, and what is hardest: all have the limit.
SHAPES = {
    "70 languages": b" ".join(TEXTS["languages"]),
    "English": (pathlib.Path(__file__).parent.parent / "golden/essay.txt").read_bytes(),
    "code": b"\n".join(TEXTS["code"]),
    "Chinese": TEXTS["long lines"][15],
    "one word of letters": TEXTS["long lines"][14],
    "a alone": b"a",
    "blanks alone": b" ",
}


def seconds(build, model, options, raw):
    return float(subprocess.run(
        [build / "tests/tool/zeph-tokens", *options, "--time", "5", model], check=True,
        input=struct.pack("=I", len(raw)) + raw, capture_output=True).stderr)


def main(build, model):
    with tempfile.TemporaryDirectory() as directory:
        directory = pathlib.Path(directory)
        mistral = test_tokenizers.mistral().write(directory / "mistral.gguf")
        llama_3 = test_tokenizers.ByteLevelFile(model).write(directory / "llama-3.gguf",
                                                             pre="llama-bpe")
        kinds = {"Mistral": (mistral, []), "SmolLM2": (model, []),
                 "SmolLM2, no JIT": (model, ["--no-jit"]), "Llama 3 split": (llama_3, []),
                 "Llama 3 split, no JIT": (llama_3, ["--no-jit"])}
        print("| 1 MiB of | " + " | ".join(kinds) + " |\n|---|" + "---|" * len(kinds))
        worst = 0
        for name, unit in SHAPES.items():
            raw = (unit * (SIZE // len(unit) + 1))[:SIZE]
            times = [seconds(build, path, options, raw) for path, options in kinds.values()]
            print(f"| {name} | " + " | ".join(f"{t:.3f} s" for t in times) + " |", flush=True)
            worst = max(worst, *times)
    print(f"\nslowest: {worst:.3f} s, limit {LIMIT} s")
    return 0 if worst < LIMIT else 1


sys.exit(main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])))
