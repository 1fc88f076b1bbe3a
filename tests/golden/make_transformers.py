#!/usr/bin/env python3
"""Makes transformers-smollm2.json: what transformers (f32) answers, greedily, to 20 prompts; and
essay-smollm2.json: the token ids of essay.txt.

    $(tests/python-env tests/requirements-reference.txt) tests/golden/make_transformers.py MODEL.gguf

For each prompt: its token ids, the ids of the reply (at most 64), how it ended, and for every
position the logprobs of the five likeliest tokens and the standard deviation of the logits. A prompt
where two tokens are nearly as likely at some position would test luck: it is refused.
"""

import json
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from transformers_oracle import Oracle, Text  # noqa: E402

N_TOKENS = 64
N_TOP = 5
MARGIN = 6e-4  # of the deviation: twice the tolerance of a logprob, so that within it none can flip

ESSAY = (HERE / "essay.txt").read_text(encoding="utf-8")


def user(text):
    return [{"role": "user", "content": text}]


CHATS = [
    user("Is the sky blue, yes or no."),
    user("What is the capital of France, and what river runs through it?"),
    user("Name three uses of a paper clip besides holding paper."),
    user("Explain to a child of six why ice floats on water."),
    user("If a train leaves at 14:05 and arrives at 16:50, how long does it take?"),
    [{"role": "system", "content": "You answer in rhymes."}, *user("What does the moon do by day?")],
    [*user("My name is Ingrid."), {"role": "assistant", "content": "Nice to meet you, Ingrid!"},
     *user("What is my name?")],
    user("Schreibe einen Satz über den Herbst."),
    user("¿Cuál es la diferencia entre el mar y el océano?"),
]

TEXTS = [
    "Once upon a time, in a valley where it never rained,",
    "The three laws of thermodynamics state that",
    "Dear Sir or Madam,\n\nI am writing to complain about",
    "1, 1, 2, 3, 5, 8, 13, 21,",
    "def is_prime(n: int) -> bool:\n    \"\"\"Says whether n is a prime.\"\"\"\n",
    "#include <stdio.h>\n\nint main(int argc, char **argv)\n{\n\t",
    "SELECT name, COUNT(*) AS n FROM orders\n  JOIN customers ON",
    "La Révolution française commence en",
    "Москва — столица",
    "富士山は日本で",
    ESSAY[:2600],
]


def main():
    path = sys.argv[1]
    text = Text(path)
    oracle = Oracle(path, threads=int(sys.argv[2]) if len(sys.argv) > 2 else None)
    prompts = [text.chat(messages) for messages in CHATS] + [text.ids(t) for t in TEXTS]
    assert len(prompts) == 20
    cases = []
    for prompt in prompts:
        answer = oracle.greedy(prompt, N_TOKENS, N_TOP)
        margin = min((p["logprobs"][0] - p["logprobs"][1]) / p["deviation"]
                     for p in answer["positions"])
        print(f"{len(prompt)} -> {len(answer['tokens'])} {answer['finish']}, margin {margin:.1e}: "
              f"{text.tokenizer.decode(answer['tokens'], skip_special_tokens=False)!r}",
              file=sys.stderr)
        if margin < MARGIN:
            sys.exit("too close to a tie: choose another prompt")
        cases.append({"prompt": prompt, **answer})
    (HERE / "essay-smollm2.json").write_text(
        json.dumps(text.ids(ESSAY), separators=(",", ":")) + "\n", encoding="utf-8")
    target = HERE / "transformers-smollm2.json"
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    target.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
