from __future__ import annotations

import base64
import io
import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketvlm.bundle.chat import ChatLayout, Reasoning, Role
from pocketvlm.bundle.manifest import Manifest
from pocketvlm.errors import CapacityError, ChatError
from pocketvlm.images.prepare import Preprocessing, TiledImage
from pocketvlm.images.tiling import PAPER_CANDIDATES
from pocketvlm.runtime import vision
from pocketvlm.runtime.chat import ImageSpan, build_prompt, check_layout, image_tokens, spans_of
from pocketvlm.runtime.text import Literal, PeopleText, TextTokenizer
from tests.support.bundles import manifest, picture
from tests.support.checkpoints import CHAT_TEMPLATE, write_frontend
from tests.support.tokenizers_zoo import byte_level

PAPER = manifest()
assert PAPER.chat is not None
CHAT = PAPER.chat

SPOKEN = st.text(st.one_of(st.sampled_from(" \n\t<|>é"), st.characters(exclude_categories=["Cs"])), max_size=15)
DIALOGUES = st.tuples(st.booleans(), st.lists(SPOKEN, min_size=1, max_size=7).filter(lambda turns: len(turns) % 2)).map(
    lambda drawn: [
        *([{"role": "system", "content": "Be brief. "}] if drawn[0] else []),
        *(
            {"role": role, "content": text}
            for role, text in zip(itertools.cycle(("user", "assistant")), drawn[1], strict=False)
        ),
    ]
)


def text_of(messages: list[Any], chat: ChatLayout = CHAT) -> str:
    return "".join(span.text for span in spans_of(messages, chat) if not isinstance(span, ImageSpan))


def user(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(content)}


def tiled(grid: tuple[int, int], thumbnail_index: int | None) -> vision.Picture:
    tiles = grid[0] * grid[1] + (thumbnail_index is not None)
    return vision.Picture(TiledImage(grid, np.zeros((tiles, 16, 16, 3), np.uint8), thumbnail_index), b"digest")


@given(messages=DIALOGUES)
def test_token_ids_are_those_of_transformers_apply_chat_template(
    messages: list[Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    from transformers import PreTrainedTokenizerFast

    from pocketvlm.export.read.chat_template import compile_chat_template

    directory = tmp_path_factory.getbasetemp() / "frontend"
    if not directory.exists():
        directory.mkdir()
        write_frontend(directory)
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(directory / "tokenizer.json"), chat_template=CHAT_TEMPLATE)
    ours = TextTokenizer.from_json((directory / "tokenizer.json").read_bytes())
    chat = compile_chat_template(directory)
    assert chat is not None
    prompt = build_prompt(spans_of(messages, chat), [], PAPER, ours)
    wanted = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert prompt.token_ids.tolist() == wanted


def test_literals_stand_around_what_people_say() -> None:
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        user({"type": "text", "text": "c"}),
    ]
    assert text_of(messages) == "<s><|user|>a<|end|><|assistant|>b<|end|><|user|>c<|end|><|assistant|>"
    assert text_of([{"role": "system", "content": "s"}, user("c")]).startswith("<s><|user|>system:s<|end|><|user|>c")


def test_a_default_system_message_stands_where_none_is_given() -> None:
    chat = CHAT.model_copy(update={"default_system": "helpful"})
    assert text_of([user("c")], chat).startswith("<s><|user|>system:helpful<|end|><|user|>c")
    assert "helpful" not in text_of([{"role": "system", "content": "s"}, user("c")], chat)


def test_earlier_answers_lose_their_reasoning_where_the_template_drops_it() -> None:
    chat = CHAT.model_copy(update={"reasoning": Reasoning(end="</think>", trim="\n")})
    in_parts = [{"type": "text", "text": text} for text in ("<think>s", "o</think>b")]
    content: list[Any] = ["<think>so</think>\n\nb", in_parts]
    for answer in content:
        messages = [user("</think>a"), {"role": "assistant", "content": answer}, user("c")]
        assert (
            text_of(messages, chat) == "<s><|user|></think>a<|end|><|assistant|>b<|end|><|user|>c<|end|><|assistant|>"
        )
        assert "<think>so</think>" in text_of(messages)
    trimmed = CHAT.model_copy(update={"reasoning": Reasoning(end=None, trim="\n")})
    messages = [user("\na"), {"role": "assistant", "content": "\n\nb\n"}, user("c")]
    assert text_of(messages, trimmed).startswith("<s><|user|>\na<|end|><|assistant|>b\n<|end|>")


def test_a_question_that_a_system_message_joins_keeps_the_space_between_them() -> None:
    roles = {name: role.model_copy(update={"strip": name == "user"}) for name, role in CHAT.roles.items()}
    chat = CHAT.model_copy(update={"system_joins": True, "roles": roles})
    system = {"role": "system", "content": "s"}
    for layout in (chat, chat.model_copy(update={"default_system": "d"})):
        assert ">  a<|end|>" in text_of([system, user("  a ")], layout)
        messages = [system, user("a"), {"role": "assistant", "content": "b"}, user(" c ")]
        assert "<|user|>c<|end|>" in text_of(messages, layout)
    assert "<|user|>a<|end|>" in text_of([user("  a ")], chat)
    assert ">  a<|end|>" in text_of([user("  a ")], chat.model_copy(update={"default_system": "d"}))


def test_content_is_stripped_where_the_template_trims() -> None:
    chat = CHAT.model_copy(update={"roles": {**CHAT.roles, "user": Role(prefix="U:", suffix=";", strip=True)}})
    assert text_of([user(" \n a b\t")], chat) == "<s>U:a b;<|assistant|>"
    spans = spans_of([user(" a ", {"type": "image", "image": "x.png"}, " b ")], chat)
    assert spans[2:5] == [PeopleText("a "), ImageSpan("x.png"), PeopleText(" b")]
    assert spans_of([user(" a ")], CHAT)[2] == PeopleText(" a ")


def test_images_stand_where_the_parts_say() -> None:
    spans = spans_of([user("left", {"type": "image", "image": "a.png"}, {"type": "text", "text": "right"})], CHAT)
    assert spans == [
        Literal("<s>"),
        Literal("<|user|>"),
        PeopleText("left"),
        ImageSpan("a.png"),
        PeopleText("right"),
        Literal("<|end|>"),
        Literal("<|assistant|>"),
    ]


def test_every_common_form_of_an_image_part(tmp_path: Path) -> None:
    encoded = io.BytesIO()
    picture(20, 20).save(encoded, "PNG")
    path = tmp_path / "with space.png"
    path.write_bytes(encoded.getvalue())
    url = f"data:image/png;base64,{base64.b64encode(encoded.getvalue()).decode()}"
    parts = [
        {"type": "image", "image": str(path)},
        {"type": "image", "path": str(path)},
        {"type": "image", "url": path.as_uri()},
        {"type": "image", "image": picture(20, 20)},
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "image_url", "image_url": url},
        {"type": "image_url", "image_url": f"data:image/png;base64,{base64.encodebytes(encoded.getvalue()).decode()}"},
    ]
    spans = [span for span in spans_of([user(*parts)], CHAT) if isinstance(span, ImageSpan)]
    digests = {vision.prepare(span.source, Preprocessing(tile_size=16)).digest for span in spans}
    assert len(spans) == len(parts)
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("messages", "line"),
    [
        ([], "no user message"),
        ([{"role": "system", "content": "a"}], "no user message"),
        (["hello"], "message 1 is not a dictionary"),
        ([{"content": "a"}], "message 1 has the role None"),
        ([{"role": "tool", "content": "a"}], "role 'tool'"),
        ([{"role": ["user"], "content": "a"}], "message 1 has the role"),
        ([{"role": "assistant", "content": "a"}], "message 1 is the assistant's"),
        ([user("a"), user("b")], "message 2 is the user's where the assistant's belongs"),
        ([user("a"), {"role": "system", "content": "b"}], "message 2 is the system's"),
        ([user("a"), {"role": "assistant", "content": "b"}], "last message must be the user's"),
        ([{"role": "user"}], "content must be text or a list"),
        ([{"role": "user", "content": 3}], "not int"),
        ([{"role": "user", "content": b"abc"}], "not bytes"),
        ([user(3)], "content part must be a dictionary"),
        ([user({"type": "video", "video": "x"})], "type 'video'"),
        ([user({"type": "text"})], "needs its text"),
        ([user({"type": "text", "text": 3})], "needs its text"),
        ([user({"type": "image"})], "needs its image"),
        ([user({"type": "image_url", "image_url": 3})], "image_url part needs"),
        ([user({"type": "image", "url": "https://example.org/a.png"})], "is not fetched"),
        ([user({"type": "image_url", "image_url": "http://example.org"})], "is not fetched"),
        ([user({"type": "image_url", "image_url": "data:image/png;base64,@@@"})], "data: URL is damaged"),
        ([user({"type": "image_url", "image_url": "data:image/png,abc"})], "is not fetched"),
        ([{"role": "system", "content": [{"type": "image", "image": "a"}]}, user("a")], "belong into user messages"),
    ],
)
def test_malformed_messages_are_one_clear_line(messages: list[Any], line: str) -> None:
    with pytest.raises(ChatError, match=re.escape(line)):
        spans_of(messages, CHAT)


def expected_layout(grid: tuple[int, int], thumbnail: str) -> list[int]:
    """The layout of PAPER, written out as its documentation says."""
    image = [4, 4]
    ids = [90, 91]
    if thumbnail == "first":
        ids += [92, *image]
    for row in range(grid[1]):
        for column in range(grid[0]):
            ids += [100 + 10 * row + column, *image]
        ids += [93]
    if thumbnail == "last":
        ids += [92, *image]
    return [*ids, 94, 95]


@pytest.mark.parametrize("grid", PAPER_CANDIDATES)
@pytest.mark.parametrize("thumbnail", ["first", "last", "none"])
def test_image_tokens_follow_the_layout(grid: tuple[int, int], thumbnail: str) -> None:
    index = {"first": 0, "last": grid[0] * grid[1], "none": None}[thumbnail]
    shown = tiled(grid, index)
    ids, rows = image_tokens(shown, PAPER)
    assert ids.tolist() == expected_layout(grid, thumbnail)
    assert rows[ids == 4].tolist() == list(range(len(shown.tiled.pixels) * 2))
    assert (rows[ids != 4] == -1).all()


def test_an_image_that_can_never_fit_is_refused_before_its_tokens_are_counted_out() -> None:
    assert PAPER.vision is not None
    vision = PAPER.vision.model_copy(update={"tokens_per_tile": 1 << 40})  # lists of them would fill the memory
    with pytest.raises(CapacityError, match="the image has 2199023255552 tokens, 64 fit into this bundle's KV cache"):
        image_tokens(tiled((1, 1), 0), manifest(vision=vision))


def test_a_text_model_takes_no_images() -> None:
    text_only = manifest(vision=None, image_layout=None)
    with pytest.raises(ChatError, match="text only"):
        image_tokens(tiled((1, 1), 0), text_only)


def test_a_layout_without_an_entry_for_each_tile_is_noticed() -> None:
    assert PAPER.image_layout is not None
    assert check_layout(PAPER.image_layout, PAPER_CANDIDATES) is None
    assert check_layout(PAPER.image_layout, [(4, 1)]) is not None
    assert check_layout(PAPER.image_layout, [(1, 4)]) is not None


def prompt_of(messages: list[Any], pictures: list[vision.Picture], sections: Manifest = PAPER) -> Any:
    return build_prompt(spans_of(messages, CHAT), pictures, sections, TextTokenizer(byte_level(), [3, 4]))


def test_the_placeholder_in_what_people_write_is_no_image() -> None:
    image = {"type": "image", "image": "a"}
    prompt = prompt_of([user("<|image_pad|>", image, "4")], [tiled((1, 1), 0)])
    assert prompt.image_tokens == 4
    assert np.count_nonzero(prompt.token_ids == 4) == 4
    assert (prompt.picture_row[prompt.picture_index == 0] == np.arange(4)).all()


def test_keys_tell_pictures_and_texts_apart() -> None:
    image = {"type": "image", "image": "a"}
    first, second = tiled((2, 1), 0), vision.Picture(tiled((2, 1), 0).tiled, b"other")
    messages = [user(image, "a", image)]
    same, other = prompt_of(messages, [first, first]).keys(), prompt_of(messages, [first, second]).keys()
    differing = [index for index, pair in enumerate(zip(same, other, strict=True)) if pair[0] != pair[1]]
    assert len(differing) == 6  # two tiles and a thumbnail of the second image, two tokens each
    assert differing[0] > len(same) // 2
    assert len(set(same)) < len(same)
    assert same == prompt_of(messages, [first, first]).keys()
