"""Random chat layouts and dialogues, with the spans that Python makes of them or that it refuses them."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

from pocketvlm.bundle.chat import Around, ChatLayout, Reasoning, Role
from pocketvlm.errors import ChatError
from pocketvlm.runtime.chat import ImageSpan, spans_of
from pocketvlm.runtime.text import PeopleText

TEXTS = (
    "",
    "What is it?",
    "  \n hello \t",
    "\u00a0\u3000x\u0085\x1c",
    "<think>a</think>\n\nb",
    "</think></think>\n c",
    "🙂 \ufeff",
)
ROLES = ("system", "user", "assistant")


def drawn_layout(random: Random) -> ChatLayout:
    """Any that a manifest may have."""

    def maybe(value: Any) -> Any:
        return random.choice((None, value))

    roles = {
        name: Role(
            prefix=f"<{name}>", suffix="<end>\n", strip=random.random() < 0.5, prefix_with_image=maybe(f"<{name} sees>")
        )
        for name in ROLES[random.randrange(2) :]
    }
    images_first = random.random() < 0.5
    return ChatLayout(
        start=random.choice(("", "<s>")),
        roles=roles,
        default_system=maybe("Be brief.") if "system" in roles else None,
        generation_prefix="<assistant>",
        reasoning=maybe(Reasoning(end=maybe("</think>"), trim="\n")),
        image=maybe(Around(prefix="<image>", suffix="</image>\n")),
        text=maybe(Around(prefix="<text>", suffix="</text>")),
        images_first=images_first,
        system_joins=random.random() < 0.5,
        strip_parts=random.random() < 0.3,
        behind_images=maybe("<behind>") if images_first else None,
        single_turn=random.random() < 0.1,
    )


def drawn_dialogue(random: Random) -> list[tuple[str, list[Any]]]:
    """Roles, mostly in their order, with texts and indices of images."""
    roles = [
        *random.choice((("system",), ())),
        *("user", "assistant") * random.randrange(4),
        *random.choice((("user",),) * 5 + ((),)),
    ]
    if roles and random.random() < 0.1:
        random.shuffle(roles)
    images = iter(range(99))

    def content(role: str) -> list[Any]:
        likely = 0.4 if role == "user" else 0.02
        return [next(images) if random.random() < likely else random.choice(TEXTS) for _ in range(random.randrange(4))]

    return [(role, content(role)) for role in roles]


def write_dialogues(file: Path, count: int) -> None:
    """A JSON line each: layout, messages, and spans: L(iteral), P(eople's text) or I(mage); null where refused."""
    random = Random(0)
    with file.open("w") as lines:
        for _ in range(count):
            layout, dialogue = drawn_layout(random), drawn_dialogue(random)
            line = {"chat": layout.model_dump(), "messages": dialogue, "spans": _spans(layout, dialogue)}
            lines.write(json.dumps(line) + "\n")


def _spans(layout: ChatLayout, dialogue: list[tuple[str, list[Any]]]) -> list[tuple[str, Any]] | None:
    messages = [
        {
            "role": role,
            "content": [part if isinstance(part, str) else {"type": "image", "image": part} for part in content],
        }
        for role, content in dialogue
    ]
    try:
        spans = spans_of(messages, layout)
    except ChatError:
        return None
    return [
        ("I", span.source) if isinstance(span, ImageSpan) else ("P" if isinstance(span, PeopleText) else "L", span.text)
        for span in spans
    ]
