"""transformers and tokenizers as the oracle for a GGUF file.

transformers reads the weights of a GGUF (it dequantises them); the tokenizer that it builds from one
is wrong, so token ids are made here by `tokenizers`, from the vocabulary, the merges and the split
that the metadata names, and by jinja2 from the chat template that it holds.
"""

import pathlib

import gguf
import jinja2
import tokenizers

CONTROL = 3  # tokenizer.ggml.token_type of a token that text never becomes


def contents(reader, key):
    return reader.fields[key].contents()


class Text:
    """Text to token ids, for byte-level BPE with single digits split off (pre "smollm")."""

    def __init__(self, path):
        reader = gguf.GGUFReader(path)
        assert contents(reader, "tokenizer.ggml.model") == "gpt2"
        assert contents(reader, "tokenizer.ggml.pre") == "smollm"
        tokens = contents(reader, "tokenizer.ggml.tokens")
        merges = [tuple(m.split(" ", 1)) for m in contents(reader, "tokenizer.ggml.merges")]
        types = contents(reader, "tokenizer.ggml.token_type")
        self.tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(
            vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
        self.tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([
            tokenizers.pre_tokenizers.Digits(individual_digits=True),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
        self.tokenizer.add_special_tokens([t for t, kind in zip(tokens, types) if kind == CONTROL])
        self.tokenizer.decoder = tokenizers.decoders.ByteLevel()
        environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
        self.template = environment.from_string(contents(reader, "tokenizer.chat_template"))

    def ids(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def plain(self, text):
        """The ids of text that names of control tokens are nothing but text in."""
        pieces = self.tokenizer.pre_tokenizer.pre_tokenize_str(text)
        return [t.id for piece, _ in pieces for t in self.tokenizer.model.tokenize(piece)]

    def chat(self, messages, add_generation_prompt=True):
        return self.ids(self.template.render(messages=messages,
                                             add_generation_prompt=add_generation_prompt))


class Oracle:
    """The model in f32."""

    def __init__(self, path, threads=None):
        import torch
        import transformers

        self.torch = torch
        if threads:
            torch.set_num_threads(threads)
        path = pathlib.Path(path)
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32)
        self.model.eval()

    def greedy(self, prompt, max_new_tokens, n_top):
        """Greedy continuation of token ids, up to the end token, which is not part of it.

        For each position whose token was chosen (the end token's too): the logprobs of the n_top
        likeliest ids and the standard deviation of the logits, which is the scale on which errors
        of logprobs are measured.
        """
        torch = self.torch
        end = self.model.config.eos_token_id
        with torch.inference_mode():
            out = self.model.generate(
                torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                max_new_tokens=max_new_tokens, do_sample=False, temperature=None, top_p=None,
                top_k=None, eos_token_id=end, pad_token_id=end, output_logits=True,
                return_dict_in_generate=True)
            ids = out.sequences[0, len(prompt):].tolist()
            positions = []
            for logits in out.logits:
                logits = logits[0].double()
                top = torch.topk(torch.log_softmax(logits, -1), n_top)
                positions.append({
                    "ids": top.indices.tolist(),
                    "logprobs": [round(x, 6) for x in top.values.tolist()],
                    "deviation": round(logits.std().item(), 5)})
        ended = ids[-1] == end
        return {"tokens": ids[:-1] if ended else ids, "finish": "stop" if ended else "length",
                "positions": positions}

    def score(self, prompt, choice):
        """The sum of the logprobs of choice's token ids behind those of prompt, and the sum of the
        standard deviations of the logits there: the scale of errors."""
        torch = self.torch
        with torch.inference_mode():
            logits = self.model(torch.tensor([prompt + choice])).logits[0].double()
        rows = logits[len(prompt) - 1:-1]
        chosen = torch.log_softmax(rows, -1)[range(len(choice)), choice]
        return {"logprob": chosen.sum().item(), "deviation": rows.std(-1).sum().item()}
