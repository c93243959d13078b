"""The names that a template may use, beside transformers on files that say them in every place and form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from pocketvlm.errors import PocketVlmError
from pocketvlm.export.read.jinja.source import STANDARD, read_names
from tests.support.checkpoints import write_frontend

FLAGS = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
KEYS = st.sampled_from([*STANDARD, "image_token", "boi_token", "x", "add_bos_token", "my_token_id"])
TEXTS = ["<row>", "<|end|>", "<|user|>", "<new>", ""]
OBJECTS = [{"content": "<row>", **FLAGS}, {"content": "<|user|>", **FLAGS}]
MORE = st.sampled_from([[], ["<row>"], {"image_token": "<row>"}, {"a": "<|end|>", "image_token": "<|user|>"}])
CONFIG = st.dictionaries(KEYS, st.sampled_from([*TEXTS, None, True, 7]), max_size=4)
MAP = st.dictionaries(KEYS, st.sampled_from([*TEXTS, *OBJECTS, None]), max_size=4)
DECODER = st.sampled_from([{}, {"263": {"content": "<row>", "special": True, **FLAGS}}])


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("names")
    write_frontend(path)
    return path


@settings(max_examples=60)
@given(
    config=CONFIG,
    typed=st.dictionaries(st.sampled_from([*STANDARD, "eot_token"]), st.sampled_from(OBJECTS), max_size=2),
    more=st.none() | MORE,
    decoder=st.none() | DECODER,
    older=st.none() | MAP,
    older_more=st.none() | MORE,
)
def test_names_are_transformers(directory: Path, **said: Any) -> None:
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **said["config"]}
    config |= {name: {"__type": "AddedToken", **token} for name, token in said["typed"].items()}
    for key, name in (("more", "extra_special_tokens"), ("decoder", "added_tokens_decoder")):
        config |= {} if said[key] is None else {name: said[key]}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    path = directory / "special_tokens_map.json"
    path.unlink(missing_ok=True)
    if said["older"] is not None:
        more = {} if said["older_more"] is None else {"extra_special_tokens": said["older_more"]}
        path.write_text(json.dumps(said["older"] | more))
    try:
        wanted = AutoTokenizer.from_pretrained(directory).special_tokens_map
        found = read_names(directory)
    # Refused by us, or by transformers, which looks an empty unk_token up in itself without end.
    except (PocketVlmError, TypeError, ValueError, AttributeError, KeyError, RecursionError):
        return
    assert dict(found.tokens) == {name: token for name, token in wanted.items() if token}
    assert not set(found.absent) & set(found.tokens)
