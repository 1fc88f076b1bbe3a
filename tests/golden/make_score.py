#!/usr/bin/env python3
"""Makes score-smollm2.json: what transformers (f32) says of the likelihood of some choices.

    $(tests/python-env tests/requirements-reference.txt) tests/golden/make_score.py MODEL.gguf

For each: the request, and for each choice its token ids, those of the reply as the model's template
writes it behind the generation prompt up to the end of the turn, or of prompt and choice as one text;
the sum of their logprobs; the sum of the standard deviations of the logits there.
"""

import json
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from transformers_oracle import Oracle, Text  # noqa: E402

END = "<|im_end|>"


def user(text):
    return [{"role": "user", "content": text}]


REQUESTS = [
    {"messages": user("Is the sky blue, yes or no."), "choices": ["Yes", "yes", "No", "no", "No."]},
    {"messages": user("What is the capital of France?"),
     "choices": ["London", "Paris", "The capital of France is Paris.", "", " Paris"]},
    {"messages": [{"role": "system", "content": "You answer in rhymes."}, *user("What is the moon?"),
                  {"role": "assistant", "content": "A lamp in June."}, *user("And the sun?")],
     "choices": ["A bun.", "Der Ofen der Welt, größer als alles!", "It is fun.\n", "<|im_end|>"]},
    {"prompt": "The capital of France is", "choices": [" Paris", " London", " the city of Paris."]},
    {"prompt": "def f(x):\n    return", "choices": [" x", " 2 * x + 17\n", "\n"]},
]


def tokens(text, request):
    """Token ids of the prompt, and of each choice behind it."""
    if "prompt" in request:
        prompt = text.ids(request["prompt"])
        whole = [text.ids(request["prompt"] + choice) for choice in request["choices"]]
        assert all(ids[:len(prompt)] == prompt for ids in whole)
        return prompt, [ids[len(prompt):] for ids in whole]
    prompt = text.chat(request["messages"])
    end = text.tokenizer.token_to_id(END)
    replies = []
    for choice in request["choices"]:
        mark = "@zephyrus@" if END in choice else choice  # what a user wrote is text
        whole = text.chat(request["messages"] + [{"role": "assistant", "content": mark}], False)
        assert whole[:len(prompt)] == prompt
        reply = whole[len(prompt):]
        reply = reply[:reply.index(end) + 1]
        if mark != choice:
            reply = text.plain(choice) + [end]
        replies.append(reply)
    return prompt, replies


def score(text, oracle, request):
    prompt, replies = tokens(text, request)
    return [{"tokens": reply[:-1] if "messages" in request else reply,
             **oracle.score(prompt, reply)} for reply in replies]


def main():
    path = sys.argv[1]
    text, oracle = Text(path), Oracle(path)
    cases = [{"request": request, "choices": score(text, oracle, request)} for request in REQUESTS]
    (HERE / "score-smollm2.json").write_text(json.dumps(cases, indent=1, ensure_ascii=False) + "\n",
                                             encoding="utf-8")


if __name__ == "__main__":
    main()
