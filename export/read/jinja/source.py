"""Where a checkpoint keeps its chat template and the special tokens that templates may name: as in transformers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, GetPydanticSchema, model_validator

from pocketvlm.errors import ExportError, one_line
from pocketvlm.files import read_text
from pocketvlm.models.directory import read_file
from pocketvlm.models.values import READ

MAX_TEMPLATE_BYTES = 1 << 20
#: Templates of one checkpoint.
MOST_TEMPLATES = 64
#: The names that transformers gives every tokenizer's special tokens.
STANDARD = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
#: Keys of tokenizer_config.json that a tokenizer.json makes void.
SWITCHES = ("add_bos_token", "add_eos_token")
DEFAULT = "default"


class AddedToken(BaseModel):
    """A token as tokenizer_config.json describes it."""

    model_config = READ
    content: str


def _text(token: str | AddedToken | None) -> str | None:
    return token.content if isinstance(token, AddedToken) else token


#: None for one that the tokenizer does not have
Token = Annotated[
    str | None, GetPydanticSchema(lambda _, handler: handler(str | AddedToken | None)), AfterValidator(_text)
]
Template = Annotated[str, Field(max_length=MAX_TEMPLATE_BYTES)]


class NamedTemplate(BaseModel):
    """One of several chat templates."""

    model_config = READ
    name: str
    template: Template


class HasTemplate(BaseModel):
    """What is read of ``chat_template.json`` and ``processor_config.json``."""

    model_config = READ
    chat_template: (
        Annotated[tuple[NamedTemplate, ...], Field(max_length=MOST_TEMPLATES)]
        | Annotated[dict[str, Template], Field(max_length=MOST_TEMPLATES)]
        | Template
        | None
    ) = None

    @property
    def templates(self) -> dict[str, str]:
        """Each template by its name; one alone is the default."""
        if isinstance(self.chat_template, tuple):
            return {one.name: one.template for one in self.chat_template}
        return {DEFAULT: self.chat_template} if isinstance(self.chat_template, str) else self.chat_template or {}


class SpecialTokensMap(BaseModel):
    """What is read of ``special_tokens_map.json``: each key that names one token."""

    model_config = READ
    named: dict[str, Token] = Field(default_factory=dict)
    """those with a name that any tokenizer has, and others whose key ends in _token"""
    extra_special_tokens: dict[str, Token] | list[Any] | None = None

    @classmethod
    def _names_token(cls, key: str, value: object) -> bool:
        """Whether a key that not every tokenizer has names a token."""
        return key.endswith("_token") and (isinstance(value, str) or (isinstance(value, dict) and "content" in value))

    @model_validator(mode="before")
    @classmethod
    def _gathered(cls, raw: dict[str, Any]) -> dict[str, Any]:
        named = {key: value for key, value in raw.items() if key in STANDARD or cls._names_token(key, value)}
        return {**{key: value for key, value in raw.items() if key != "named"}, "named": named}

    @property
    def extra(self) -> dict[str, str | None]:
        """Those that have a name of their own."""
        return self.extra_special_tokens if isinstance(self.extra_special_tokens, dict) else {}


class TokenizerConfig(SpecialTokensMap):
    """What is read of ``tokenizer_config.json`` beside its template."""

    added_tokens_decoder: Any = None
    split_special_tokens: Literal[False] | None = None
    """switched on, a template's own special tokens are read as plain text"""

    @classmethod
    def _names_token(cls, key: str, value: object) -> bool:
        """Here two switches end in _token, and an object says itself that it is a token."""
        is_token = not isinstance(value, dict) or value.get("__type") == "AddedToken"
        return is_token and key not in SWITCHES and super()._names_token(key, value)


@dataclass(frozen=True)
class Names:
    """What templates may name: special tokens as text, and the names of those that there are not."""

    tokens: Mapping[str, str]
    absent: tuple[str, ...]

    def get(self, name: str) -> str:
        """The token's text, empty where there is none."""
        return self.tokens.get(name, "")


@dataclass(frozen=True)
class FoundTemplate:
    """A template as it is found, None where there is none to take; ``lack`` says why where somebody may expect one."""

    text: str | None
    lack: str | None = None


def read_names(directory: Path) -> Names:
    """The special tokens that transformers passes to a chat template.

    ``special_tokens_map.json`` counts before ``tokenizer_config.json`` where that has no ``added_tokens_decoder``,
    and not at all where it has (``PreTrainedTokenizerBase._from_pretrained``).

    :raises CheckpointError: naming the key that is wrong
    """
    config = read_file(TokenizerConfig, directory / "tokenizer_config.json")
    found = dict(config.named)
    if config.added_tokens_decoder is None:
        older = read_file(SpecialTokensMap, directory / "special_tokens_map.json")
        own = {name: token for name, token in config.named.items() if name not in STANDARD}
        found |= {**older.named, **own, **config.extra, **older.extra}
    else:
        found |= config.extra
    # (an empty one is none)
    return Names(
        {name: token for name, token in found.items() if token},
        tuple(name for name, token in found.items() if not token),
    )


def read_source(directory: Path, *, processor: bool) -> FoundTemplate:
    """The template named default, from where transformers takes it. ``processor``: a model that sees has one.

    Files count before ``tokenizer_config.json``; a processor looks into ``processor_config.json`` and the older
    ``chat_template.json`` first (``ProcessorMixin.get_processor_dict``), a tokenizer not at all, and so last here.

    :raises PocketVlmError: a file cannot be read, or naming the key that is wrong
    """
    of_processor = ["processor_config.json", "chat_template.json"]
    places: Iterator[tuple[str, dict[str, str]]] = (
        (name, _files(directory) if name == "*.jinja" else read_file(HasTemplate, directory / name).templates)
        for name in (
            *(of_processor if processor else []),
            "*.jinja",
            "tokenizer_config.json",
            *([] if processor else of_processor),
        )
    )
    name, templates = next(((name, found) for name, found in places if found), ("", {}))
    if DEFAULT in templates:
        return FoundTemplate(templates[DEFAULT])
    if templates:
        known = one_line(", ".join(templates), 120)
        return FoundTemplate(None, f"{name} has chat templates ({known}), but none that is called {DEFAULT}")
    return FoundTemplate(None, "the checkpoint has no chat template")


def _files(directory: Path) -> dict[str, str]:
    """``chat_template.jinja`` and what stands in ``additional_chat_templates``."""
    alone = directory / "chat_template.jinja"
    paths = {DEFAULT: alone} if alone.is_file() else {}
    folder = directory / "additional_chat_templates"
    more = sorted(folder.glob("*.jinja")) if folder.is_dir() else []
    if len(more) > MOST_TEMPLATES:
        raise ExportError(f"{folder.name}: more than the {MOST_TEMPLATES} templates that are read")
    paths |= {path.stem: path for path in more}
    return {name: read_text(path, MAX_TEMPLATE_BYTES, ExportError) for name, path in paths.items()}
