"""Tokenizers of Hugging Face directories: tokenizer.json gives the ids of `tokenizers`, tokenizer.model
those of `sentencepiece`, and what is not implemented is refused by its name."""

import json
import shutil
import struct
import subprocess

import hf_files
import pytest
import tokenizer_texts
import tokenizers
from hf_files import MISTRAL
from test_tokenizers import (LLAMA_3, ByteLevelFile, compare, digits_then_gpt2, gpt2, run_zeph, split, tekken)
from tokenizers import AddedToken, processors

TEXTS = tokenizer_texts.texts()
ALL = [raw for some in TEXTS.values() for raw in some]
MODEL = MISTRAL / "tokenizer.model.v1"


def write(directory, tokenizer=None, model=None, **config):
    """A directory with a tokenizer alone; returns it."""
    directory.mkdir(exist_ok=True)
    if tokenizer is not None:
        text = tokenizer.to_str() if isinstance(tokenizer, tokenizers.Tokenizer) else json.dumps(tokenizer)
        (directory / "tokenizer.json").write_text(text, encoding="utf-8")
    if model:
        shutil.copy(model, directory / "tokenizer.model")
    if config:
        (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory


def same_bytes(text):
    return text.encode()


@pytest.fixture(scope="module")
def legacy_text():
    return hf_files.mistral_json(MODEL, "legacy").to_str()


# --- Mistral's tokenizer, from either file

@pytest.fixture(name="legacy")
def fresh_legacy(legacy_text):
    return tokenizers.Tokenizer.from_str(legacy_text)


def test_mistral_json_is_that_of_tokenizers(build, legacy, tmp_path):
    answers = run_zeph(build, write(tmp_path / "m", legacy), ALL, "--trusted")
    for raw, (ids, _) in zip(ALL, answers, strict=True):
        assert ids == legacy.encode(raw.decode("utf-8", "replace"), add_special_tokens=False).ids


def test_mistral_model_and_json_give_the_same_ids(build, legacy, tmp_path):
    mine = run_zeph(build, write(tmp_path / "a", model=MODEL), ALL)
    assert mine == run_zeph(build, write(tmp_path / "b", legacy), ALL)
    reference = hf_files.processor(MODEL)
    compare(ALL, mine, reference.encode, lambda text: text.replace("\u2581", " ").encode())


@pytest.mark.parametrize("prefix", ["always", "first", "never"])
def test_metaspace(build, tmp_path, prefix):
    reference = hf_files.mistral_json(MODEL, prefix)
    raws = [b"Hello", b" Hello", b"", b" ", b"a</s>b", b"</s> b", b"a </s>", b"</s></s>x<s>", "\u2581x".encode()]
    answers = run_zeph(build, write(tmp_path / "m", reference), raws, "--trusted")
    assert [ids for ids, _ in answers] == [
        reference.encode(raw.decode(), add_special_tokens=False).ids for raw in raws]


@pytest.mark.parametrize("config, prefix", [
    ({}, "legacy"), ({"legacy": True}, "legacy"), ({"legacy": False}, "first"),
    ({"add_prefix_space": False}, "never"), ({"legacy": False, "add_prefix_space": True}, "first")])
def test_model_file_is_converted_as_transformers_does(build, tmp_path, config, prefix):
    """legacy and add_prefix_space choose where the space goes."""
    reference = hf_files.mistral_json(MODEL, prefix)
    raws = [b"Hello you", b" Hello", b"a</s>b", b"</s> b"]
    answers = run_zeph(build, write(tmp_path / "m", model=MODEL, tokenizer_class="LlamaTokenizer", **config),
                       raws, "--trusted")
    assert [ids for ids, _ in answers] == [
        reference.encode(raw.decode(), add_special_tokens=False).ids for raw in raws]


def test_add_prefix_space_prefers_the_model_file(build, legacy, tmp_path):
    """transformers converts tokenizer.model anew where the key is set, even to true."""
    path = write(tmp_path / "m", legacy, MODEL, tokenizer_class="LlamaTokenizerFast", legacy=False,
                 add_prefix_space=True)
    assert run_zeph(build, path, [b"a</s>b"], "--trusted")[0][0] == hf_files.mistral_json(
        MODEL, "first").encode("a</s>b").ids


@pytest.mark.parametrize("config, expected", [
    ({}, [1, 22557]),
    ({"add_bos_token": False}, [22557]),
    ({"add_eos_token": True}, [1, 22557, 2]),
    ({"bos_token": {"content": "</s>"}}, [2, 22557]),
    ({"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": False, "add_eos_token": True}, [22557, 2])])
@pytest.mark.parametrize("file", ["json", "model"])
def test_what_goes_around_the_text(build, legacy, tmp_path, config, expected, file):
    config = {"bos_token": "<s>", "eos_token": "</s>"} | config
    path = write(tmp_path / "m", legacy if file == "json" else None, MODEL if file == "model" else None, **config)
    assert run_zeph(build, path, [b"Hello"], "--model")[0][0] == expected


@pytest.mark.parametrize("name", ["mistral_instruct_tokenizer_240216.model.v2",
                                  "mistral_instruct_tokenizer_240323.model.v3"])
def test_later_models_of_mistral(build, tmp_path, name):
    reference = hf_files.processor(MISTRAL / name)
    raws = [raw for kind in list(TEXTS)[:3] for raw in TEXTS[kind]]
    compare(raws, run_zeph(build, write(tmp_path / "m", model=MISTRAL / name), raws),
            reference.encode, lambda text: text.replace("\u2581", " ").encode())


# --- byte-level tokenizers

@pytest.fixture(scope="module")
def byte_level(model):
    return ByteLevelFile(model)


@pytest.mark.parametrize("kind", ["gpt-2", "smollm", "llama-3", "tekken"])
def test_byte_level_json_is_that_of_tokenizers(build, byte_level, tmp_path, kind):
    make, whole = {"gpt-2": (gpt2, False), "smollm": (digits_then_gpt2, False),
                   "llama-3": (lambda: split(LLAMA_3), True),
                   "tekken": (lambda: split(tekken()["config"]["pattern"]), True)}[kind]
    reference = byte_level.reference(make(), whole)
    compare(ALL, run_zeph(build, write(tmp_path / "m", reference), ALL),
            lambda text: reference.encode(text, add_special_tokens=False).ids, byte_level.known_bytes)


def test_the_post_processor_says_what_goes_around(build, byte_level, tmp_path):
    reference = byte_level.reference(split(LLAMA_3), True)
    bos, eos = byte_level.tokens[1], byte_level.tokens[2]
    reference.add_special_tokens([bos, eos])
    reference.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single=f"{bos} $A {eos}", special_tokens=[(bos, 1), (eos, 2)])])
    path = write(tmp_path / "m", reference, tokenizer_class="PreTrainedTokenizerFast", bos_token=bos,
                 eos_token=eos)
    assert run_zeph(build, path, [b"Hello 12"], "--model")[0][0] == reference.encode("Hello 12").ids
    assert reference.encode("Hello 12").ids[0] == 1 and reference.encode("Hello 12").ids[-1] == 2


def test_merges_as_pairs_and_as_lines_are_one(build, byte_level, tmp_path):
    described = json.loads(byte_level.reference(digits_then_gpt2()).to_str())
    lines = [m if isinstance(m, str) else " ".join(m) for m in described["model"]["merges"]]
    found = []
    for i, merges in enumerate((lines, [line.split(" ") for line in lines])):
        described["model"]["merges"] = merges
        found.append(run_zeph(build, write(tmp_path / f"m{i}", described), ALL[:300]))
    assert found[0] == found[1]


# --- added tokens

@pytest.mark.parametrize("form", ["sentencepiece", "byte-level"])
def test_added_tokens(build, legacy, byte_level, tmp_path, form):
    """Special ones are recognised in trusted text alone, others everywhere; both cut the text."""
    base = legacy if form == "sentencepiece" else byte_level.reference(digits_then_gpt2())
    reference = tokenizers.Tokenizer.from_str(base.to_str())
    reference.add_tokens([AddedToken("<plain>", normalized=False), AddedToken("two words", normalized=False)])
    reference.add_special_tokens([AddedToken("<special>", normalized=False, special=True)])
    raws = [b"a<plain>b", b" a <plain> b", b"<plain><plain>", b"x two words y", b"<special> z",
            b"a<special><plain>b c"]
    path = write(tmp_path / "m", reference)
    wanted = [reference.encode(raw.decode(), add_special_tokens=False).ids for raw in raws]
    assert [ids for ids, _ in run_zeph(build, path, raws, "--trusted")] == wanted
    special = reference.token_to_id("<special>")
    for raw, ids, (mine, _) in zip(raws, wanted, run_zeph(build, path, raws), strict=True):
        assert special not in mine
        assert mine == ids or b"<special>" in raw


def test_tokenizer_config_overrides_flags(build, legacy, tmp_path):
    """added_tokens_decoder: a token of the vocabulary becomes special, a new one gets its id."""
    path = write(tmp_path / "m", legacy, added_tokens_decoder={
        "22557": {"content": "\u2581Hello", "special": True},
        "32000": {"content": "<|im_start|>", "special": True}, "32001": {"content": "<tool>", "special": False}})
    def ids(text, *options):
        return run_zeph(build, path, [text], *options)[0][0]

    assert ids(b"<|im_start|>", "--trusted") == [32000]
    assert 32000 not in ids(b"<|im_start|>")
    assert ids(b"<tool>") == [32001]
    assert 22557 not in ids(b"Hello")


def test_old_directories_name_added_tokens_in_a_file_of_their_own(build, tmp_path):
    path = write(tmp_path / "m", model=MODEL, bos_token="<s>", eos_token="<|im_end|>")
    (path / "added_tokens.json").write_text(json.dumps({"<s>": 1, "<|im_end|>": 32000, "<tool>": 32001}))
    assert run_zeph(build, path, [b"<tool>"])[0][0] == [32001]
    assert run_zeph(build, path, [b"<|im_end|>"], "--trusted")[0][0] == [32000]
    assert 32000 not in run_zeph(build, path, [b"<|im_end|>"])[0][0]


def zephyr_files(path, legacy):
    """tokenizer_config.json and special_tokens_map.json as HuggingFaceH4/zephyr-7b-beta has them."""
    def added(i, text):
        return {str(i): {"content": text, "lstrip": False, "normalized": False, "rstrip": False,
                         "single_word": False, "special": True}}

    legacy.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)])
    legacy.enable_truncation(2048, direction="left")
    write(
        path, legacy, MODEL, added_tokens_decoder=added(0, "<unk>") | added(1, "<s>") | added(2, "</s>"),
        additional_special_tokens=["<unk>", "<s>", "</s>"], bos_token="<s>", clean_up_tokenization_spaces=False,
        eos_token="</s>", legacy=True, model_max_length=1000000000000000019884624838656, pad_token="</s>",
        sp_model_kwargs={}, spaces_between_special_tokens=False, tokenizer_class="LlamaTokenizer",
        truncation_side="left", unk_token="<unk>", use_default_system_prompt=True)
    (path / "special_tokens_map.json").write_text(json.dumps({
        "additional_special_tokens": ["<unk>", "<s>", "</s>"], "bos_token": "<s>", "eos_token": "</s>",
        "pad_token": "</s>", "unk_token": "<unk>"}))
    (path / "added_tokens.json").write_text(json.dumps({"</s>": 2, "<s>": 1, "<unk>": 0}))
    return path


def test_the_files_of_zephyr(build, legacy, tmp_path):
    path = zephyr_files(tmp_path / "m", legacy)
    text = "<|user|>\nHi there</s>\n<|assistant|>\n"
    ids = run_zeph(build, path, [text.encode()], "--trusted", "--model")[0][0]
    assert ids == legacy.encode(text).ids and ids[0] == 1 and ids.count(2) == 1
    assert 2 not in run_zeph(build, path, [text.encode()], "--model")[0][0]


# --- refusals

def refusal(build, directory):
    done = subprocess.run([build / "tests/tool/zeph-tokens", directory], input=struct.pack("=I", 0),
                          capture_output=True, check=False)
    assert done.returncode == 1, done.stdout
    return done.stderr.decode()


def changed(described, path, value):
    described = json.loads(json.dumps(described))
    *where, last = path
    at = described
    for key in where:
        at = at[key]
    if value is None:
        del at[last]
    else:
        at[last] = value
    return described


PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
SMALL = {
    "version": "1.0", "truncation": None, "padding": None, "added_tokens": [
        {"id": 0, "content": "<unk>", **PLAIN}, {"id": 1, "content": "<s>", **PLAIN}],
    "normalizer": {"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "\u2581"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]},
    "pre_tokenizer": None, "post_processor": None,
    "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
    "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
              "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
              "vocab": {"<unk>": 0, "<s>": 1, "\u2581": 2, "a": 3, "b": 4, "ab": 5, "\u2581ab": 6},
              "merges": ["a b", "\u2581 ab"]}}


def test_the_small_one_is_accepted(build, tmp_path):
    reference = tokenizers.Tokenizer.from_str(json.dumps(SMALL))
    raws = [b"ab ab", b"", b"axxb", b"b  a"]
    answers = run_zeph(build, write(tmp_path / "m", SMALL), raws)
    assert [ids for ids, _ in answers] == [reference.encode(raw.decode()).ids for raw in raws]


@pytest.mark.parametrize("path, value, named", [
    (["model", "type"], "Unigram", "Unigram"),
    (["model", "type"], "WordPiece", "WordPiece"),
    (["model", "dropout"], 0.1, "dropout"),
    (["model", "end_of_word_suffix"], "</w>", "end_of_word_suffix"),
    (["model", "continuing_subword_prefix"], "##", "continuing_subword_prefix"),
    (["model", "fuse_unk"], False, "fuse_unk"),
    (["model", "ignore_merges"], True, "ignore_merges"),
    (["model", "unk_token"], "<none>", "unk_token"),
    (["model", "merges"], ["a b c"], "entry 0"),
    (["model", "merges"], ["a b", "a x"], "entry 1"),
    (["model", "merges"], [["a", "b"], ["a"]], "entry 1"),
    (["model", "merges"], None, "merges"),
    (["model", "vocab"], {}, "vocab"),
    (["model", "vocab", "a"], -1, "vocab"),
    (["model", "vocab", "a"], 1048576, "vocab"),
    (["model", "vocab", "a"], 4, "one id"),
    (["model", "vocab", "a"], "3", "vocab"),
    (["normalizer"], {"type": "NFC"}, "NFC"),
    (["normalizer", "normalizers", 0, "prepend"], "_", "Prepend"),
    (["normalizer", "normalizers", 1, "pattern"], {"Regex": " "}, "Replace"),
    (["normalizer"], {"type": "Lowercase"}, "Lowercase"),
    (["normalizer"], {"type": "Prepend", "prepend": "\u2581"}, "spaces"),
    (["pre_tokenizer"], {"type": "Whitespace"}, "normalizer"),
    (["pre_tokenizer"], {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always",
                         "split": False}, "Metaspace"),
    (["decoder"], {"type": "WordPiece"}, "WordPiece"),
    (["post_processor"], {"type": "BertProcessing"}, "BertProcessing"),
    (["post_processor"], {"type": "TemplateProcessing", "single": []}, "TemplateProcessing"),
    (["added_tokens", 0, "lstrip"], True, "lstrip"),
    (["added_tokens", 0, "rstrip"], True, "rstrip"),
    (["added_tokens", 0, "single_word"], True, "single_word"),
    (["added_tokens", 0, "id"], 3, "id 3"),
    (["added_tokens", 0, "content"], "", "added token"),
])
def test_what_is_not_implemented_is_refused_by_name(build, tmp_path, path, value, named):
    said = refusal(build, write(tmp_path / "m", changed(SMALL, path, value)))
    assert "tokenizer.json" in said and named in said


@pytest.mark.parametrize("pre, named", [
    ({"type": "Whitespace"}, "Whitespace"),
    ({"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}, "ByteLevel"),
    ({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": "x+"}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}]}, "Split"),
    ({"type": "Sequence", "pretokenizers": []}, "Sequence"),
    ({"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": True}, "Metaspace"),
    ({"type": "Metaspace", "replacement": "_", "prepend_scheme": "first", "split": False}, "Metaspace"),
])
def test_other_splits_are_refused_by_name(build, tmp_path, pre, named):
    described = changed(changed(SMALL, ["normalizer"], None), ["pre_tokenizer"], pre)
    assert named in refusal(build, write(tmp_path / "m", described))


@pytest.mark.parametrize("config, named", [
    ({"eos_token": "<none>"}, "eos_token"),
    ({"bos_token": 5}, "bos_token"),
    ({"add_bos_token": "yes"}, "add_bos_token"),
    ({"add_eos_token": True}, "add_eos_token"),
    ({"added_tokens_decoder": {"x": {"content": "y"}}}, "added_tokens_decoder"),
    ({"added_tokens_decoder": {"3": {"content": "b"}}}, "id 3"),
    ({"added_tokens_decoder": {"9": {"content": "b", "lstrip": True}}}, "lstrip"),
    ({"added_tokens_decoder": []}, "added_tokens_decoder"),
    ({"additional_special_tokens": "x"}, "additional_special_tokens"),
    ({"additional_special_tokens": ["x"] * 4097}, "additional_special_tokens"),
])
def test_the_small_files_are_checked(build, tmp_path, config, named):
    config = {"bos_token": "<s>"} | config
    assert named in refusal(build, write(tmp_path / "m", SMALL, **config))


# A field that stands twice in a message counts the second time: the file with a change behind it.
@pytest.mark.parametrize("behind, named", [
    (b"\x12\x02\x18\x01", "model_type"),
    (b"\x12\x03\xc0\x01\x01", "treat_whitespace_as_suffix"),
    (b"\x1a\x03\x12\x01x", "precompiled_charsmap"),
    (b"\x1a\x02\x20\x01", "remove_extra_whitespaces"),
    (b"\x1a\x02\x28\x00", "escape_whitespaces"),
    (b"\x0a\x05\x12\x01x", "piece"),
    (b"\x0a\x7f", "cut short"),
    (b"\x0b", "cut short"),
    (b"\x08\x01", "cut short"),
])
def test_other_sentencepiece_models_are_refused_by_name(build, tmp_path, behind, named):
    path = write(tmp_path / "m")
    (path / "tokenizer.model").write_bytes(MODEL.read_bytes() + behind)
    assert named in refusal(build, path)


def test_a_directory_without_a_tokenizer_says_so(build, tmp_path):
    assert "no tokenizer" in refusal(build, write(tmp_path / "m"))
