"""Chat templates compiled to literals: the conventions in use, beside transformers, and the ones that cannot be."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer
from transformers.utils.chat_template_utils import render_jinja_template

from pocketvlm.bundle.chat import Around, Reasoning
from pocketvlm.errors import ExportError
from pocketvlm.export.read.chat_template import FoundChat, compile_chat_template, read_chat
from pocketvlm.export.read.literals import render_literals
from tests.support.chat_templates import (
    CHATML,
    LLAVA,
    LLAVA_MISTRAL,
    LLAVA_ONEVISION,
    REFUSED,
    TEMPLATES,
    TOKENS,
)
from tests.support.checkpoints import CHAT_TEMPLATE, tiny_config, write_frontend

#: An image is <image> to its template.
SHOWN = replace(tiny_config(), image_in_template="<image>")


def write(directory: Path, template: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "chat_template.jinja").write_text(template)
    (directory / "tokenizer_config.json").write_text(json.dumps(TOKENS))
    return directory


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FoundChat]:
    root = tmp_path_factory.mktemp("templates")
    return {name: read_chat(write(root / str(at), TEMPLATES[name].template)) for at, name in enumerate(TEMPLATES)}


def rendered(template: str, messages: list[dict[str, str]]) -> str:
    """By transformers."""
    tokens = {name: token for name, token in TOKENS.items() if token is not None}
    texts, _ = render_jinja_template([messages], chat_template=template, add_generation_prompt=True, **tokens)
    return texts[0]


@pytest.mark.parametrize("name", TEMPLATES)
@settings(max_examples=30)
@given(texts=st.lists(st.text(max_size=30), min_size=1, max_size=7), system=st.none() | st.text(max_size=10))
def test_literals_equal_transformers_rendering(
    chats: dict[str, FoundChat], name: str, texts: list[str], system: str | None
) -> None:
    """On any dialogue that asks for an answer, beside transformers' own rendering of the template."""
    chat, kind = chats[name].layout, TEMPLATES[name]
    assert chat is not None
    texts = texts[: len(texts) - 1 + len(texts) % 2]
    messages = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(texts)]
    if system is not None and "system" in chat.roles:
        messages.insert(0, {"role": "system", "content": system})
        if chat.system_joins and not messages[1]["content"].strip():
            messages[1]["content"] = "x"  # without a question the system message's own end is trimmed
    if "no clock" in kind.note:
        wanted = rendered(kind.template.replace("strftime_now is defined", "false"), messages)
    else:
        wanted = rendered(kind.template, messages)
    assert render_literals(chat, messages, True) == wanted


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_the_layout_has_and_what_is_said_of_it(chats: dict[str, FoundChat], name: str) -> None:
    chat, kind = chats[name], TEMPLATES[name]
    assert chat.layout is not None
    assert ("system" in chat.layout.roles) == kind.system
    assert chat.layout.default_system == kind.default_system
    assert bool(kind.note) == bool(chat.notes)
    assert kind.note in " ".join(chat.notes)


def test_messages_end_where_they_end_in_the_template(chats: dict[str, FoundChat]) -> None:
    found = {name: chat.layout for name, chat in chats.items() if chat.layout is not None}
    assert found["llama 3"].start == "<s>"
    assert found["llama 3"].roles["user"].strip
    assert not found["chatml"].roles["user"].strip
    assert found["mistral"].roles["assistant"].suffix == "</s>"
    assert found["phi 3"].roles["user"].suffix == "<|end|>\n"
    assert found["phi 3"].generation_prefix == "<|assistant|>\n"
    assert found["llama 2"].system_joins
    assert found["qwen 3"].reasoning == Reasoning(end="</think>", trim="\n")
    assert found["smollm 3"].reasoning == Reasoning(end=None, trim="\n")
    assert sum(layout.format_version == 3 for layout in found.values()) == 6
    assert found["gemma 3"].roles["system"].suffix == "\n\n"
    assert found["gemma 3"].roles["assistant"].suffix == "<end_of_turn>\n<start_of_turn>user\n"


@pytest.mark.parametrize("name", REFUSED)
def test_a_template_that_literals_cannot_follow_is_refused(tmp_path: Path, name: str) -> None:
    template, words = REFUSED[name]
    with pytest.raises(ExportError, match=words) as caught:
        compile_chat_template(write(tmp_path, template))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


NAMED = {
    "special_tokens_map.json": {"bos_token": "<row>", "eos_token": {"content": "<|end|>", "lstrip": False}},
    "tokenizer_config.json": {
        "extra_special_tokens": {"image_token": "<row>"},
        "cls_token": "<row>",
        "pad_token": None,
    },
}
FOUND: list[tuple[str, dict[str, Any]]] = [
    ("bos_token", NAMED),
    ("eos_token", NAMED),
    ("image_token", NAMED),
    ("cls_token", NAMED),
    ("boi_token", {"tokenizer_config.json": {"boi_token": "<row>", "add_bos_token": True}}),
    ("boi_token", {"special_tokens_map.json": {"boi_token": "<row>"}}),
    ("unk_token", {"tokenizer_config.json": {"unk_token": {"__type": "AddedToken", "content": "<row>"}}}),
    (
        "eos_token",
        {"tokenizer_config.json": {"eos_token": "<row>"}, "special_tokens_map.json": {"eos_token": "<|end|>"}},
    ),
    (
        "eos_token",
        {
            "tokenizer_config.json": {"eos_token": "<row>", "added_tokens_decoder": {"262": {"content": "<row>"}}},
            "special_tokens_map.json": {"eos_token": "<|end|>"},
        },
    ),
    ("a_token", {"tokenizer_config.json": {"a_token": "<row>"}, "special_tokens_map.json": {"a_token": "<|end|>"}}),
    ("pad_token", NAMED),
]


@pytest.mark.parametrize(("name", "files"), FOUND, ids=lambda one: one if isinstance(one, str) else "")
def test_special_tokens_are_known_from_where_transformers_knows_them(
    tmp_path: Path, name: str, files: dict[str, Any]
) -> None:
    write_frontend(tmp_path)
    files = {"tokenizer_config.json": {}, **files}
    for file, content in files.items():
        base = {"tokenizer_class": "PreTrainedTokenizerFast"} if file == "tokenizer_config.json" else {}
        (tmp_path / file).write_text(json.dumps(base | content))
    (tmp_path / "chat_template.jinja").write_text("{{ " + name + " }}" + CHAT_TEMPLATE)
    messages = [{"role": "user", "content": "Hi"}]
    wanted = AutoTokenizer.from_pretrained(tmp_path).apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    chat = compile_chat_template(tmp_path)
    assert chat is not None
    assert render_literals(chat, messages, True) == wanted


OTHER = CHATML.replace("im_start", "other")
PLACES: list[tuple[dict[str, Any], str | None, str | None]] = [
    ({}, None, None),
    ({"chat_template.jinja": CHATML, "tokenizer_config.json": {"chat_template": OTHER}}, "im_start", "im_start"),
    ({"tokenizer_config.json": {"chat_template": CHATML}}, "im_start", "im_start"),
    ({"tokenizer_config.json": {"chat_template": {"default": CHATML, "tool_use": "{{ x"}}}, "im_start", "im_start"),
    ({"tokenizer_config.json": {"chat_template": [{"name": "default", "template": CHATML}]}}, "im_start", "im_start"),
    ({"tokenizer_config.json": {"chat_template": [{"name": "tool_use", "template": CHATML}]}}, None, None),
    (
        {"additional_chat_templates/tool_use.jinja": CHATML, "tokenizer_config.json": {"chat_template": OTHER}},
        None,
        None,
    ),
    ({"chat_template.jinja": CHATML, "additional_chat_templates/rag.jinja": OTHER}, "im_start", "im_start"),
    ({"chat_template.json": {"chat_template": CHATML}}, "im_start", "im_start"),
    ({"chat_template.json": {"chat_template": CHATML}, "chat_template.jinja": OTHER}, "other", "im_start"),
    ({"processor_config.json": {"chat_template": CHATML}, "chat_template.jinja": OTHER}, "other", "im_start"),
    ({"chat_template.json": {}, "chat_template.jinja": OTHER}, "other", "other"),
]


@pytest.mark.parametrize(("files", "of_text", "of_vision"), PLACES)
def test_the_template_is_taken_from_where_transformers_takes_it(
    tmp_path: Path, files: dict[str, Any], of_text: str | None, of_vision: str | None
) -> None:
    from pocketvlm.export.read.jinja.source import read_source

    for file, content in files.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(content if isinstance(content, str) else json.dumps(content))
    for processor, wanted in ((False, of_text), (True, of_vision)):
        found = read_source(tmp_path, processor=processor)
        assert (found.text is None) == (wanted is None) == (found.lack is not None)
        assert wanted is None or wanted in (found.text or "")
    chat = read_chat(tmp_path)
    assert (
        (chat.layout is None) == (of_text is None) == ("questions reach the model as they are" in "".join(chat.notes))
    )


def test_a_folder_in_a_template_s_place_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "additional_chat_templates" / "rag.jinja").mkdir(parents=True)
    with pytest.raises(ExportError, match=r"rag\.jinja: is not a regular file"):
        read_chat(tmp_path)


@pytest.mark.parametrize("takes", ["message['content'] is string", "false"], ids=["texts and parts", "parts alone"])
def test_an_image_part_must_render_as_the_layout_says(tmp_path: Path, takes: str) -> None:
    template = CHAT_TEMPLATE.replace("message['content'] is string", takes)
    assert read_chat(write(tmp_path / "good", template), tiny_config()).layout is not None
    with pytest.raises(ExportError, match="<img>"):
        read_chat(write(tmp_path / "bad", template.replace("<image>", "<img>")), tiny_config())


@pytest.mark.parametrize(
    ("template", "prefix", "suffix", "image"),
    [
        (LLAVA, "", " ", Around(prefix="", suffix="\n")),
        (LLAVA_MISTRAL, None, None, Around(prefix="", suffix="\n")),
        (LLAVA_ONEVISION, "\n", "", None),
    ],
    ids=["llava", "mistral", "onevision"],
)
def test_images_may_come_before_the_texts(
    tmp_path: Path, template: str, prefix: str | None, suffix: str | None, image: Around | None
) -> None:
    chat = read_chat(write(tmp_path, template), SHOWN).layout
    assert chat is not None
    assert chat.images_first
    assert chat.image == image
    assert chat.text == (None if prefix is None or suffix is None else Around(prefix=prefix, suffix=suffix))
    assert chat.format_version == 3
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "s"},
        {
            "role": "user",
            "content": [{"type": "text", "text": "11"}, {"type": "image"}, {"type": "text", "text": "22"}],
        },
    ]
    assert "system" in chat.roles
    shown = render_literals(chat, messages, True, "<image>")
    assert shown.index("<image>") < shown.index("11") < shown.index("22")


def test_texts_may_not_be_written_otherwise_beside_an_image(tmp_path: Path) -> None:
    template = LLAVA_ONEVISION.replace("{{ '<image>' }}", "{{ '<image>' if loop.last else '<image>,' }}")
    with pytest.raises(ExportError, match="images change the text around them"):
        read_chat(write(tmp_path, template), SHOWN)


def test_an_image_may_not_change_the_text_around_it(tmp_path: Path) -> None:
    """As SmolVLM's, whose "User:" has a space behind it where no image comes first."""
    template = CHAT_TEMPLATE.replace(
        "{% for message in messages %}",
        "{% for message in messages %}{% if message['content'] is not string %}"
        "{{ ' ' if message['content'][0]['type'] == 'text' }}{% endif %}",
    )
    with pytest.raises(ExportError, match="images change the text around them"):
        read_chat(write(tmp_path, template), tiny_config())
