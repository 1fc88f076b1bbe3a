#!/usr/bin/env python3
"""The guides' own program: a transformers text-generation pipeline in bfloat16, for compare.py.

    pipeline.py prepare MODEL.gguf DIRECTORY    the same weights as a Hugging Face directory, once
    pipeline.py ask DIRECTORY TOKENS QUESTION   one question in a fresh process
    pipeline.py warm DIRECTORY REPEAT QUESTION [TOKENS QUESTION]...
"""

import json
import pathlib
import sys
import time

import torch
import transformers

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))


def prepare(model_path, directory):
    from transformers_oracle import Text, contents
    import gguf

    path = pathlib.Path(model_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.bfloat16)
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=1, eos_token_id=2, pad_token_id=2)
    model.save_pretrained(directory)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=Text(path).tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        chat_template=contents(gguf.GGUFReader(path), "tokenizer.chat_template"),
    ).save_pretrained(directory)


def pipeline(directory):
    return transformers.pipeline("text-generation", model=directory, dtype=torch.bfloat16,
                                 device_map="auto")


def ask(pipe, question, n_tokens):
    """Greedy, so that all programs do the same work. Returns the reply and its tokens' count."""
    prompt = pipe.tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True)
    out = pipe(prompt, max_new_tokens=n_tokens, do_sample=False, return_full_text=False,
               add_special_tokens=False)
    text = out[0]["generated_text"]
    return text, len(pipe.tokenizer(text, add_special_tokens=False)["input_ids"])


def main():
    mode, directory = sys.argv[1], sys.argv[2]
    transformers.logging.set_verbosity_error()
    if mode == "prepare":
        prepare(directory, sys.argv[3])
    elif mode == "ask":
        print(json.dumps(ask(pipeline(directory), sys.argv[4], int(sys.argv[3]))))
    else:
        pipe = pipeline(directory)
        ask(pipe, "Hello.", 4)
        for _ in range(int(sys.argv[3])):
            for n_tokens, question in zip(sys.argv[4::2], sys.argv[5::2]):
                start = time.monotonic()
                text, n = ask(pipe, question, int(n_tokens))
                print(json.dumps([time.monotonic() - start, text, n]), flush=True)


if __name__ == "__main__":
    main()
