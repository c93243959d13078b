"""The section ``chat`` of a manifest: the chat template as literal text, and what goes between."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import SerializerFunctionWrapHandler, StringConstraints, model_serializer, model_validator

from pocketvlm.bundle.tools import Text, ToolLayout
from pocketvlm.strict import Closed, dropping_none

#: What format 5 alone can say.
OF_FORMAT_5 = ("between", "strip_parts", "behind_images", "single_turn", "tools")


class Role(Closed):
    """Literal text around a message; ``strip`` where the template trims the content's white space.

    ``prefix_with_image``: what stands before a message that begins with an image, where it is not ``prefix``.
    """

    prefix: Text
    suffix: Text
    strip: bool
    prefix_with_image: Text | None = None

    _serialize = dropping_none("prefix_with_image")


class Around(Closed):
    """Literal text around each part of a message: of an image outside of what its layout has, since the tokenizer sees
    it with the text beside it."""

    prefix: Text
    suffix: Text


class Reasoning(Closed):
    """What a template drops of an answer once the next question is asked: all up to the last ``end``, and then the
    characters of ``trim`` at the beginning of the rest; without an ``end`` these alone, of each answer."""

    end: Annotated[Text, StringConstraints(min_length=1)] | None
    trim: Text

    def dropped_from(self, text: str) -> str:
        """What is left of an earlier answer."""
        if self.end is None:
            return text.lstrip(self.trim)
        _, found, rest = text.rpartition(self.end)
        return rest.lstrip(self.trim) if found else text


class ChatLayout(Closed):
    """The chat template as literals (proved equal to the Jinja template at export).

    ``image`` and ``text``: what stands around each image and each text of a question, which may be several; with
    ``images_first`` a question's images come before its texts, wherever somebody put them. ``between``: what stands
    between the parts of a question, images or texts.
    """

    start: Text
    roles: dict[Literal["system", "user", "assistant"], Role]
    default_system: Text | None
    generation_prefix: Text
    reasoning: Reasoning | None = None
    image: Around | None = None
    text: Around | None = None
    images_first: bool = False
    between: Text | None = None
    system_joins: bool = False
    """whether a system message and the first question are trimmed as one text: the space between them stays"""
    strip_parts: bool = False
    """whether each text of a message that is trimmed is trimmed by itself, beside its images too"""
    behind_images: Text | None = None
    """what stands between a question's images, which come first, and its texts, whether there are some of either"""
    single_turn: bool = False
    """whether a model answers one question, and takes no second one behind its answer"""
    tools: ToolLayout | None = None
    """how tools are listed, called and answered; None where the template has none"""

    @model_validator(mode="after")
    def _images_come_before_what_is_behind_them(self) -> ChatLayout:
        if self.behind_images is not None and not self.images_first:
            raise ValueError("behind_images is of a layout whose images come first (images_first)")
        return self

    def joins(self, role: str, index: int, first: str) -> bool:
        """Whether the message at ``index`` of a dialogue that begins with the role ``first`` is joined to a system
        message, given or default."""
        if not self.system_joins or role != "user":
            return False
        return index == 1 if first == "system" else index == 0 and self.default_system is not None

    @model_serializer(mode="wrap")
    def _without_what_format_2_lacks(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Formats 1 and 2 have none of these, 3 and 4 not the last; a bundle without is written in them."""
        written: dict[str, Any] = handler(self)
        for name in ("reasoning", "image", "text", "images_first", "system_joins", *OF_FORMAT_5):
            if not getattr(self, name):
                written.pop(name, None)
        return written

    @property
    def format_version(self) -> int:
        """The oldest format that can say it."""
        more = any(role.prefix_with_image is not None for role in self.roles.values())
        around = self.reasoning is not None or self.image is not None or self.text is not None
        if any(getattr(self, name) not in (None, False) for name in OF_FORMAT_5):
            return 5
        return 3 if more or around or self.images_first or self.system_joins else 1

    def prefix_of(self, role: Literal["system", "user", "assistant"], *, image_first: bool) -> str:
        """What stands before a message of a role, which begins with an image or does not."""
        chosen = self.roles[role]
        with_image = chosen.prefix_with_image if image_first else None
        return chosen.prefix if with_image is None else with_image
