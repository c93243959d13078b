"""The checkpoint's Jinja chat template, compiled to literal text by role.

No runtime, on no platform, evaluates Jinja. The template is rendered here, in jinja2's sandbox, around marker words;
what stands between the markers are the literals. That they say the same as the template is then proved on generated
dialogues; a template that does more than put text around messages is refused with the dialogue that shows it.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field, GetPydanticSchema

from pocketvlm.bundle.manifest import ChatLayout, Role
from pocketvlm.errors import ExportError, one_line
from pocketvlm.files import read_text
from pocketvlm.models.checkpoint import read_file
from pocketvlm.models.config import READ, VlmConfig

MAX_TEMPLATE_BYTES = 1 << 20
#: What a template's own code raises, beside jinja2's errors.
FAILS = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError)
#: Markers that no template trims, splits or escapes.
FIRST, SECOND, THIRD = "zqxjFIRSTzqxj", "zqxjSECONDzqxj", "zqxjTHIRDzqxj"

Message = dict[str, Any]
Render = Callable[[Sequence[Message], bool], str]


def compile_chat_template(directory: Path) -> ChatLayout | None:
    """The chat layout of a checkpoint; None when it has no template.

    :raises ExportError: when the template cannot be expressed as literals by role
    """
    config = read_tokenizer_config(directory)
    source = _read_template(directory, config)
    if source is None:
        return None
    render = _renderer(source, config.tokens)
    chat = _literals(render)
    prove_equal(chat, render, dialogues(seed=0, count=200, system="system" in chat.roles))
    return chat


def render_literals(chat: ChatLayout, messages: Sequence[Message], add_generation_prompt: bool) -> str:
    """What a runtime makes of messages: the literals around each message's text."""
    parts = [chat.start]
    if chat.default_system is not None and (not messages or messages[0]["role"] != "system"):
        role = chat.roles["system"]
        parts += [role.prefix, chat.default_system, role.suffix]
    for message in messages:
        role = chat.roles[message["role"]]
        text = message["content"].strip() if role.strip else message["content"]
        parts += [role.prefix, text, role.suffix]
    return "".join(parts) + (chat.generation_prefix if add_generation_prompt else "")


def prove_equal(chat: ChatLayout, render: Render, cases: Sequence[Sequence[Message]]) -> None:
    """Compare the literals with the template on dialogues.

    :raises ExportError: with the first dialogue that differs
    """
    for messages in cases:
        for add_generation_prompt in (False, True):
            wanted = render(messages, add_generation_prompt)
            found = render_literals(chat, messages, add_generation_prompt)
            if wanted != found:
                raise ExportError(
                    "the chat template does more than put text around messages, which no phone runtime can follow: "
                    f"for {one_line(list(messages), 200)} it gives {one_line(repr(wanted), 200)}, "
                    f"literals give {one_line(repr(found), 200)}"
                )


def dialogues(*, seed: int, count: int, system: bool) -> list[list[Message]]:
    """Dialogues of alternating turns, with and without a system message, with text that templates like to trip over."""
    source = random.Random(seed)
    words = ["hello", "Zahl 42", " two  spaces ", "line\nbreak\n", "\ttab", "{{ x }}", "<b>&amp;</b>", "äöü €", "'\"\\"]
    cases = []
    for index in range(count):
        turns = 1 + index % 5
        messages: list[Message] = []
        if system and source.random() < 0.4:
            messages.append({"role": "system", "content": source.choice(words)})
        roles = itertools.islice(itertools.cycle(("user", "assistant")), turns)
        messages += [
            {"role": role, "content": "".join(source.choices(words, k=source.randint(1, 3)))} for role in roles
        ]
        cases.append(messages)
    return cases


class AddedToken(BaseModel):
    """A token as tokenizer_config.json describes it."""

    model_config = READ
    content: str


def _text(token: str | AddedToken | None) -> str:
    return token.content if isinstance(token, AddedToken) else token or ""


#: "" for one that the tokenizer does not have
Token = Annotated[str, GetPydanticSchema(lambda _, handler: handler(str | AddedToken | None)), AfterValidator(_text)]
Template = Annotated[str, Field(max_length=MAX_TEMPLATE_BYTES)]


class NamedTemplate(BaseModel):
    """One of several chat templates."""

    model_config = READ
    name: str
    template: Template


class TokenizerConfig(BaseModel):
    """What is read of ``tokenizer_config.json``."""

    model_config = READ
    chat_template: tuple[NamedTemplate, ...] | Template | None = None
    bos_token: Token = ""
    eos_token: Token = ""
    pad_token: Token = ""
    unk_token: Token = ""

    @property
    def tokens(self) -> dict[str, str]:
        """Those that templates may name."""
        return self.model_dump(exclude={"chat_template"})


def read_tokenizer_config(directory: Path) -> TokenizerConfig:
    """``tokenizer_config.json``, or one that says nothing.

    :raises CheckpointError: naming the key that is wrong
    """
    return read_file(TokenizerConfig, directory / "tokenizer_config.json")


def _read_template(directory: Path, config: TokenizerConfig) -> str | None:
    path = directory / "chat_template.jinja"
    if path.is_file():
        return read_text(path, MAX_TEMPLATE_BYTES, ExportError)
    if not isinstance(config.chat_template, tuple):
        return config.chat_template
    # several named templates: the one called default
    return next((one.template for one in config.chat_template if one.name == "default"), None)


def _renderer(source: str, special_tokens: dict[str, str]) -> Render:
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    # trim_blocks and lstrip_blocks as in transformers' apply_chat_template
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = raise_exception
    try:
        template = environment.from_string(source)
    except (TemplateError, *FAILS) as error:
        raise ExportError(f"the chat template does not parse: {one_line(error)}") from error

    def render(messages: Sequence[Message], add_generation_prompt: bool) -> str:
        try:
            return template.render(messages=messages, add_generation_prompt=add_generation_prompt, **special_tokens)
        except (TemplateError, *FAILS) as error:
            shown = one_line(list(messages), 200)
            raise ExportError(f"the chat template fails on {shown}: {one_line(error)}") from error

    return render


def _literals(render: Render) -> ChatLayout:
    """Find the literals by rendering markers."""
    user, assistant = {"role": "user", "content": FIRST}, {"role": "assistant", "content": SECOND}
    again = {"role": "user", "content": THIRD}
    before_user, user_to_assistant, assistant_to_user, user_suffix = _split(
        render([user, assistant, again], False), FIRST, SECOND, THIRD
    )
    opened = _split(render([user, assistant, again], True), FIRST, SECOND, THIRD)
    generation_prefix = _without_prefix(opened[3], user_suffix)
    # Between two messages stand the first one's suffix and the second one's prefix.
    assistant_prefix = _without_prefix(user_to_assistant, user_suffix)
    assistant_suffix = _split(render([user, assistant], False), FIRST, SECOND)[2]
    user_prefix = _without_prefix(assistant_to_user, assistant_suffix)
    if not before_user.endswith(user_prefix):
        raise ExportError("the chat template treats the first user message unlike later ones; that is not supported")
    start = before_user.removesuffix(user_prefix)
    roles = {
        "user": Role(prefix=user_prefix, suffix=user_suffix, strip=_strips(render, [], "user")),
        "assistant": Role(prefix=assistant_prefix, suffix=assistant_suffix, strip=_strips(render, [user], "assistant")),
    }
    default_system = None
    system = _system_role(render, user_prefix)
    if system is not None:
        system_start, roles["system"] = system
        opening = system_start + roles["system"].prefix
        if start != system_start:
            if not (start.startswith(opening) and start.endswith(roles["system"].suffix)):
                raise ExportError("the chat template opens a conversation in a way that is no system message")
            default_system = start.removeprefix(opening).removesuffix(roles["system"].suffix)
            start = system_start
    return ChatLayout(start=start, roles=roles, default_system=default_system, generation_prefix=generation_prefix)


def _system_role(render: Render, user_prefix: str) -> tuple[str, Role] | None:
    """What precedes a system message, and its role; None where the template refuses or moves it."""
    user = {"role": "user", "content": THIRD}
    try:
        pair = render([{"role": "system", "content": FIRST}, {"role": "user", "content": THIRD}], False)
        before, between, _ = _split(pair, FIRST, THIRD)
        twice = render([{"role": "system", "content": FIRST}, {"role": "system", "content": SECOND}, user], False)
        _, inner, _, _ = _split(twice, FIRST, SECOND, THIRD)
    except ExportError:
        return None
    if not between.endswith(user_prefix):
        return None
    suffix = between.removesuffix(user_prefix)
    if not inner.startswith(suffix):
        return None
    prefix = inner.removeprefix(suffix)
    if not before.endswith(prefix):
        return None
    return before.removesuffix(prefix), Role(prefix=prefix, suffix=suffix, strip=_strips(render, [], "system", [user]))


def _strips(render: Render, before: list[Message], role: str, after: Sequence[Message] = ()) -> bool:
    padded = render([*before, {"role": role, "content": f" {SECOND} "}, *after], False)
    return f" {SECOND} " not in padded


def _split(text: str, *markers: str) -> list[str]:
    """The text before, between and after markers that each stand in it once, in order."""
    parts = []
    for marker in markers:
        before, found, text = text.partition(marker)
        if not found or marker in text:
            raise ExportError("the chat template drops, repeats or reorders messages; that is not supported")
        parts.append(before)
    return [*parts, text]


def _without_prefix(text: str, prefix: str) -> str:
    if not text.startswith(prefix):
        raise ExportError("the chat template ends a message differently at the end of a conversation; not supported")
    return text.removeprefix(prefix)


def check_image_part(directory: Path, config: VlmConfig) -> None:
    """An image part of a message must render as the layout's image_start, image token, image_end.

    :raises ExportError: when the template says otherwise
    """
    tokenizer = read_tokenizer_config(directory)
    source = _read_template(directory, tokenizer)
    if source is None:
        return
    render = _renderer(source, tokenizer.tokens)
    parts = [{"type": "text", "text": FIRST}, {"type": "image"}, {"type": "text", "text": SECOND}]
    wanted = config.image_layout.image_start + config.image_token + config.image_layout.image_end
    _, found, _ = _split(render([{"role": "user", "content": parts}], True), FIRST, SECOND)
    if found != wanted:
        raise ExportError(
            f"the chat template renders an image as {one_line(repr(found), 200)}, config.json's layout says {wanted!r}"
        )
