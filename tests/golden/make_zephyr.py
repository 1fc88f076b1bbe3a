"""Makes zephyr.json: the ids of Zephyr's example conversations, by transformers.

Run with tests/requirements-reference.txt installed: PYTHONPATH=tests python3 tests/golden/make_zephyr.py"""

import json
import pathlib

import test_tokenizers
import zephyr_conversations

slow, fast = zephyr_conversations.transformers_ids(
    str(test_tokenizers.MISTRAL / "tokenizer.model.v1"),
    test_tokenizers.mistral_fast(test_tokenizers.merges_of_scores()))
assert slow == fast
pathlib.Path(__file__).with_name("zephyr.json").write_text(
    "[\n" + ",\n".join(json.dumps(ids, separators=(",", ":")) for ids in slow) + "\n]\n")
