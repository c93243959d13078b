"""What a checkpoint says around its weights, from strangers: it is taken, or refused in one line that names the key."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pocketvlm.errors import ExportError, PocketVlmError
from pocketvlm.export.read.chat_template import compile_chat_template
from pocketvlm.export.read.frontend import Frontend, read_frontend
from pocketvlm.models.checkpoint import open_checkpoint
from tests.models.test_config import VALUES
from tests.support.checkpoints import CHAT_TEMPLATE

END = 256


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def said(directory: Path, name: str, **values: Any) -> Frontend:
    """The front end of a checkpoint whose file ``name`` says these, too."""
    path = directory / name
    raw = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**raw, **values}))
    return read_frontend(open_checkpoint(directory))


WRONG: list[tuple[str, str, Any, str]] = [
    ("preprocessor_config.json", "rescale_factor", 10**400, "rescale_factor is 1000"),
    ("preprocessor_config.json", "rescale_factor", True, "rescale_factor is True, expected a valid number"),
    ("preprocessor_config.json", "rescale_factor", 0, "rescale_factor is 0, expected greater than"),
    ("preprocessor_config.json", "image_mean", [0.5, float("nan"), 0.5], "image_mean.1 is nan, expected a finite"),
    ("preprocessor_config.json", "image_mean", 0.5, "image_mean is 0.5, expected a valid array"),
    ("preprocessor_config.json", "image_std", [0, 0, 0], "image_std.0 is 0, expected greater than"),
    ("preprocessor_config.json", "image_std", [1, 1], "image_std.2: Field required"),
    ("preprocessor_config.json", "resample", "x" * 5000, "resample is 'xxx"),
    ("preprocessor_config.json", "resample", 0, "resample is 0; what is supported is 3 (bicubic)"),
    ("generation_config.json", "eos_token_id", "</s>", "eos_token_id is '</s>', expected a valid integer"),
    ("generation_config.json", "eos_token_id", True, "eos_token_id is True, expected a valid integer"),
    ("generation_config.json", "eos_token_id", -1, "eos_token_id is -1, expected greater than"),
    ("generation_config.json", "eos_token_id", [1, 320], "(1, 320) is not in the vocabulary"),
    ("generation_config.json", "eos_token_id", list(range(300)), "eos_token_id"),
    ("tokenizer_config.json", "eos_token", 7, "eos_token"),
    ("tokenizer_config.json", "split_special_tokens", True, "split_special_tokens is True, expected False"),
    ("tokenizer_config.json", "eos_token", "\ud800", "Invalid JSON"),
    ("tokenizer_config.json", "eos_token", {"content": None}, "eos_token"),
    ("tokenizer_config.json", "eos_token", "", "names no eos_token_id"),
    ("tokenizer_config.json", "chat_template", 7, "chat_template"),
    ("tokenizer_config.json", "chat_template", ["a", "b"], "chat_template.0 is 'a', expected an object"),
    ("tokenizer_config.json", "chat_template", [{"name": "default"}], "chat_template.0.template: Field required"),
    ("tokenizer_config.json", "chat_template", "{{ messages.index(0) }}", "the chat template fails on"),
    ("tokenizer_config.json", "chat_template", "{{" + "(" * 5000, "the chat template does not parse"),
    ("config.json", "image_token", "<nowhere>", "no image token '<nowhere>'"),
    ("config.json", "image_layout", {"image_start": "x" * 4000}, "does not fit a bundle: image_start"),
    ("config.json", "image_layout", {"tile": "x" * 4000}, "image_layout.tile has 4000 tokens, for 4 x 4 tiles"),
    ("config.json", "tiling", {"candidates": [[64, 64]]}, "candidates: 64x64 tiles of 72 px are more than"),
]


@pytest.mark.parametrize(("name", "key", "value", "line"), WRONG, ids=lambda one: str(one)[:40])
def test_a_wrong_value_is_named_in_one_line(checkpoint: Path, name: str, key: str, value: Any, line: str) -> None:
    (checkpoint / "chat_template.jinja").unlink()
    with pytest.raises(PocketVlmError) as caught:
        said(checkpoint, name, **{key: value})
    assert line in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.sampled_from(sorted({(name, key) for name, key, _, _ in WRONG})), value=VALUES)
def test_any_value_is_taken_or_refused_in_one_line(checkpoint: Path, place: tuple[str, str], value: Any) -> None:
    path = checkpoint / place[0]
    before = path.read_bytes() if path.is_file() else b"{}"
    try:
        said(checkpoint, place[0], **{place[1]: value})
    except PocketVlmError as error:
        line = str(error)
    else:
        line = ""
    path.write_bytes(before)
    assert not line or (line.isprintable() and len(line) < 1000)


def test_an_empty_list_of_stop_tokens_says_nothing(checkpoint: Path) -> None:
    """The next file is asked; transformers generates until there is no more room."""
    assert said(checkpoint, "generation_config.json", eos_token_id=[]).tokens.stop == (END,)
    assert said(checkpoint, "generation_config.json", eos_token_id=[7, 8]).tokens.stop == (7, 8, END)
    assert said(checkpoint, "generation_config.json", eos_token_id=None).tokens.stop == (END,)
    text = json.loads((checkpoint / "config.json").read_text())["text_config"]
    assert said(checkpoint, "config.json", text_config={**text, "eos_token_id": 9}).tokens.stop == (9, END)
    said(checkpoint, "config.json", text_config=text)


def test_one_of_several_named_templates_is_the_default(checkpoint: Path) -> None:
    (checkpoint / "chat_template.jinja").unlink()
    several = [{"name": "tools", "template": "{{ x"}, {"name": "default", "template": CHAT_TEMPLATE}]
    one = said(checkpoint, "tokenizer_config.json", chat_template=several).chat
    assert one is not None
    assert one == said(checkpoint, "tokenizer_config.json", chat_template=CHAT_TEMPLATE).chat
    assert said(checkpoint, "tokenizer_config.json", chat_template=several[:1]).chat is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff", "is not UTF-8"),
        ("{{ 1 }}".encode("utf-16"), "is not UTF-8"),
        (b"\x00\x01\x02 {{ 1 }}", "drops, repeats or reorders"),
        (b"{# caf\xe9 #}", "is not UTF-8"),
        (b"x" * ((1 << 20) + 1), "more than the 1048576 bytes"),
    ],
)
def test_a_template_that_is_no_text_is_refused(checkpoint: Path, content: bytes, words: str) -> None:
    (checkpoint / "chat_template.jinja").write_bytes(content)
    with pytest.raises(ExportError, match=words) as caught:
        compile_chat_template(checkpoint)
    assert str(caught.value).isprintable()
