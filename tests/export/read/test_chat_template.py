"""Chat templates compiled to literals: the ones in use, and the ones that cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from pocketvlm.bundle.manifest import ChatLayout
from pocketvlm.errors import ExportError
from pocketvlm.export.read.chat_template import check_image_part, compile_chat_template, render_literals
from tests.support.checkpoints import CHAT_TEMPLATE, tiny_config

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
QWEN2 = CHATML.replace(
    "{{ '<|im_start|>' + m",
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}{{ '<|im_start|>' + m",
)
LLAMA3 = (
    "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'"
    " + message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}"
    "{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
MINICPM = (
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '<用户>' + message['content'].strip() + '<AI>' }}{% else %}{{ message['content'].strip() }}{% endif %}"
    "{% endfor %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ message['content'] + eos_token}}{% else %}{{ raise_exception('no system messages') }}{% endif %}{% endfor %}"
)
TEMPLATES = {
    "chatml": CHATML,
    "qwen2": QWEN2,
    "llama3": LLAMA3,
    "minicpm": MINICPM,
    "mistral": MISTRAL,
    "tiny": CHAT_TEMPLATE,
}


def write(directory: Path, template: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "chat_template.jinja").write_text(template)
    tokens = {"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": False}}
    (directory / "tokenizer_config.json").write_text(json.dumps(tokens))
    return directory


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ChatLayout]:
    root = tmp_path_factory.mktemp("templates")
    chats = {name: compile_chat_template(write(root / name, text)) for name, text in TEMPLATES.items()}
    assert all(chats.values())
    return chats  # type: ignore[return-value]


@pytest.mark.parametrize("name", TEMPLATES)
@given(texts=st.lists(st.text(max_size=30), min_size=1, max_size=5), system=st.none() | st.text(max_size=10))
def test_literals_equal_transformers_rendering(
    compiled: dict[str, ChatLayout], name: str, texts: list[str], system: str | None
) -> None:
    """On any dialogue, beside transformers' own sandboxed rendering of the template."""
    chat = compiled[name]
    messages = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(texts)]
    if system is not None and "system" in chat.roles:
        messages.insert(0, {"role": "system", "content": system})
    for generate in (False, True):
        wanted, _ = render_jinja_template(
            [messages],
            chat_template=TEMPLATES[name],
            add_generation_prompt=generate,
            bos_token="<s>",
            eos_token="</s>",
        )
        assert render_literals(chat, messages, generate) == wanted[0]


def test_what_the_literals_are(compiled: dict[str, ChatLayout]) -> None:
    assert compiled["qwen2"].default_system == "You are a helpful assistant."
    assert compiled["llama3"].start == "<s>"
    assert compiled["llama3"].roles["user"].strip
    assert not compiled["chatml"].roles["user"].strip
    assert "system" not in compiled["mistral"].roles
    assert compiled["mistral"].roles["assistant"].suffix == "</s>"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{% for m in messages %}{{ m['content'] | upper }}{% endfor %}", "drops"),
        ("{% for m in messages %}{{ loop.index }}{{ m['content'] }}{% endfor %}", "not supported"),
        ("{{ messages[0]['content'] }}", "drops"),
        ("{% for m in messages %}{{ m['content'] }}{{ m['content'] }}{% endfor %}", "repeats"),
        ("{% for m in messages %}{{ m['content'] | replace('  ', ' ') }};{% endfor %}", "does more"),
        ("{% for m in messages %}{{ m['content'] | length }}{% endfor %}", "drops"),
        ("{% for m in messages %}", "does not parse"),
        ("{{ raise_exception('never') }}", "never"),
        ("{{ messages.__class__.__mro__ }}", "fails|drops"),
        ("{{ cycler.__init__.__globals__.os.popen('id').read() }}", "fails"),
    ],
)
def test_a_template_that_literals_cannot_follow_is_refused(tmp_path: Path, template: str, words: str) -> None:
    with pytest.raises(ExportError, match=words):
        compile_chat_template(write(tmp_path, template))


def test_the_template_may_stand_in_the_tokenizer_config(tmp_path: Path) -> None:
    assert compile_chat_template(tmp_path) is None
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": CHATML}]
    for template in (CHATML, named):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
        chat = compile_chat_template(tmp_path)
        assert chat is not None
        assert chat.generation_prefix == "<|im_start|>assistant\n"


def test_the_image_part_must_render_as_the_layout_says(tmp_path: Path) -> None:
    check_image_part(write(tmp_path / "good", CHAT_TEMPLATE), tiny_config())
    with pytest.raises(ExportError, match="<img>"):
        check_image_part(write(tmp_path / "bad", CHAT_TEMPLATE.replace("<image>", "<img>")), tiny_config())
