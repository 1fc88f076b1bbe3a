"""Chat templates over the socket: the file's own, another by model.template, and what they refuse."""


import pytest

from zephd import Refused, Zephd

pytestmark = pytest.mark.daemon

SOURCE = b"tokenizer.chat_template"


def message(role, content):
    return {"role": role, "content": content}


HI = [message("user", "Hi")]


def with_template(tiny, path, source):
    """The model with another template, as long as its own: filled up with a comment."""
    data = tiny.read_bytes()
    at = data.index(SOURCE) + len(SOURCE) + 4  # behind the key and the type of its value
    size = int.from_bytes(data[at:at + 8], "little")
    filled = source.encode() + b"{#" + b" " * (size - len(source.encode()) - 4) + b"#}"
    assert len(filled) == size
    path.write_bytes(data[:at + 8] + filled + data[at + 8 + size:])
    return path


def refused(client, messages):
    with pytest.raises(Refused) as e:
        client.call("chat", messages=messages, max_new_tokens=1)
    return str(e.value)


@pytest.mark.parametrize("name,prompt", [
    # The texts of the tiny model's bos and eos are ChatML's.
    ("zephyr", "<|user|>\nHi<|im_end|>\n<|assistant|>\n"),
    ("mistral-instruct", "<|im_start|>[INST] Hi [/INST]"),
    ("chatml", "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"),
    ("llama-2", "<|im_start|>[INST] Hi [/INST]"),
    ("llama-3", "<|im_start|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
                "<|start_header_id|>assistant<|end_header_id|>\n\n"),
])
def test_the_configuration_names_another_template(build, tiny, name, prompt):
    with Zephd(build, tiny, config=f'model: {{ template = "{name}"; }};') as d:
        with d.connect() as client:
            made = client.call("template", messages=HI)
            assert made["prompt"] == prompt
            assert client.call("chat", messages=HI, max_new_tokens=3)["usage"]["prompt_tokens"] == \
                len(made["tokens"])
            if name in ("mistral-instruct", "llama-2"):
                assert refused(client, [message("assistant", "Hi")]) == (
                    "E_PARAMS: messages: the model's template refused them: After an optional "
                    "system message, user and assistant must take turns, a user first.")
        assert d.stop() == 0, d.log()


def test_a_template_that_is_no_built_in(build, tiny):
    with Zephd(build, tiny, config='model: { template = "zephir"; };') as d:
        assert d.process.wait(30) == 78
        assert "there are chatml, llama-2, llama-3, mistral-instruct and zephyr" in d.log()


@pytest.mark.parametrize("source,sentence", [
    ("{{ raise_exception('Only one role!') }}",
     "E_PARAMS: messages: the model's template refused them: Only one role!"),
    ("{{ raise_exception('No é: ' ~ messages[0].content) }}",
     "E_PARAMS: messages: the model's template refused them: No é: Hi"),
    ("a\n{{ messages[9].content }}",
     "E_MODEL: the model's chat template failed: line 2: 'list object' has no element 9"),
    ("{% for x in range(99999) %}{% for y in range(99999) %}{% endfor %}{% endfor %}",
     "E_TOO_LARGE: messages: line 1: the template runs for more than 1000000 steps"),
])
def test_what_a_template_refuses(build, tiny, tmp_path, source, sentence):
    with Zephd(build, with_template(tiny, tmp_path / "model.gguf", source)) as d:
        with d.connect() as client:
            assert refused(client, HI) == sentence
            # The daemon goes on, and prompts without a template are served.
            assert client.call("complete", prompt=[5, 6], max_new_tokens=1)["tokens"]


def test_a_refusal_with_bad_text_in_it_is_valid_text(build, tiny, tmp_path):
    source = "{{ raise_exception('No: ' ~ messages[0].content) }}"
    with Zephd(build, with_template(tiny, tmp_path / "model.gguf", source)) as d:
        with d.connect() as client:
            # The client's unpacker is strict: a sentence with bytes that are no UTF-8 raises there.
            assert refused(client, [message("user", b"a\xff\xfeb\x1b[31m")]).startswith(
                "E_PARAMS: messages: the model's template refused them: No: a")
            assert refused(client, [message("user", "é" * 4000)]).endswith("é")


def test_a_template_that_does_not_compile(build, tiny, tmp_path):
    with Zephd(build, with_template(tiny, tmp_path / "model.gguf", "{% if %}")) as d:
        with d.connect() as client:
            assert refused(client, HI) == (
                "E_MODEL: the model has no chat template that can be used: line 1: expected an "
                "expression, found '%}'")
        assert "no chat: line 1: expected an expression" in d.log()
