"""The page at / in a real browser: a picture dropped, its tiles, a question, the answer read, stop, a new chat."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pocketvlm.images.prepare import preprocessing_of
from pocketvlm.images.rules import plan_of
from pocketvlm.runtime import GenerationConfig, PocketVlm
from tests.serve.conftest import Served, Start
from tests.support.browser import (
    OVER_THE_EDGE,
    OVERFULL,
    Page,
    browser_or_skip,
    colors_of,
    complaints,
    contrast,
    luminance,
    open_page,
    requests,
)
from tests.support.waiting import until, until_equal

PHONE, DESK = 390, 1280
MARKUP = "<img src=x onerror='window.ran = 1'>"
WORDS = "h1, h1 small, h2, h3, #log p, .facts, label, button:not(:disabled), #error"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    browser_or_skip()
    with open_page(tmp_path_factory.mktemp("profile")) as page:
        yield page


def text_of(page: Page, selector: str) -> str:
    text = page.run(f"document.querySelector({json.dumps(selector)}).textContent")
    assert isinstance(text, str)
    return text


def visit(page: Page, served: Served, width: int = DESK, *, dark: bool = False) -> None:
    """Open the page and wait until it knows the model."""
    page.show(f"http://127.0.0.1:{served.port}/", width, dark=dark)
    until(lambda: text_of(page, "#model"))


def drop(page: Page, file: Path, name: str | None = None) -> None:
    """Let go of a file over the page, and wait until it is shown."""
    content = base64.b64encode(file.read_bytes()).decode()
    page.run(f"""(async () => {{
        const bytes = Uint8Array.from(atob({json.dumps(content)}), one => one.charCodeAt(0));
        const dropped = new DataTransfer(), shared = {{dataTransfer: dropped, bubbles: true, cancelable: true}};
        dropped.items.add(new File([bytes], {json.dumps(name or file.name)}, {{type: "image/png"}}));
        for (const kind of ["dragover", "drop"])
            document.body.dispatchEvent(new DragEvent(kind, shared));
    }})()""")
    until(lambda: page.run("!canvas.hidden || error.textContent"))


def ask(page: Page, question: str) -> None:
    """Type a question, and Enter."""
    page.run("document.querySelector('#question').focus()")
    page.call("Input.insertText", text=question)
    page.press("Enter", 13, "\r")


def answered(page: Page) -> str:
    """The last answer, when it is complete."""
    until(lambda: not page.run("document.querySelector('#ask').disabled"))
    return text_of(page, "#log article:last-of-type p")


def greedy(vlm: PocketVlm, *messages: Any) -> str:
    return vlm.stream(messages, config=GenerationConfig(max_new_tokens=vlm.manifest.kv_cache.length)).read()


def test_a_picture_is_dropped_cut_asked_about_and_the_answer_is_the_runtimes(
    page: Page, served: Served, vlm: PocketVlm, pictures: Path
) -> None:
    visit(page, served)
    wide, tall = pictures / "wide.png", pictures / "below" / "tall picture.png"
    drop(page, wide)
    assert text_of(page, "#tiles") == "140 x 70 pixels, 2 x 1 tiles and a thumbnail, 75 tokens"
    ask(page, "What is it?")
    first = {"role": "user", "content": [{"type": "image", "image": wide}, {"type": "text", "text": "What is it?"}]}
    wanted = greedy(vlm, first)
    assert answered(page) == wanted
    stats = text_of(page, "#stats")
    assert "75 of them of pictures" in stats and "first token after" in stats and "a second" in stats
    assert page.run("canvas.hidden") is True  # it stands in the conversation now
    assert (
        page.run("[...document.querySelectorAll('#log img')].every(one => one.naturalWidth === 140 && one.alt)") is True
    )
    page.run("messages[1].content = 'Yes.'")  # random weights leave no room for a second question
    drop(page, tall)
    ask(page, "And this?")
    second = {"role": "user", "content": [{"type": "image", "image": tall}, {"type": "text", "text": "And this?"}]}
    assert answered(page) == greedy(vlm, first, {"role": "assistant", "content": "Yes."}, second)


def test_tiles_are_drawn_where_the_library_cuts(page: Page, served: Served, vlm: PocketVlm, pictures: Path) -> None:
    visit(page, served)
    assert vlm.manifest.vision is not None
    for file, size in ((pictures / "wide.png", (140, 70)), (pictures / "below" / "tall picture.png", (70, 140))):
        drop(page, file)
        assert page.run("document.querySelector('#canvas img').naturalWidth") == size[0]
        plan = plan_of(size, preprocessing_of(vlm.manifest.vision))
        across, down = plan.grid
        boxes = page.run("""(() => {
            const canvas = document.querySelector('#canvas'), whole = canvas.getBoundingClientRect();
            const [left, top] = [whole.left + canvas.clientLeft, whole.top + canvas.clientTop];
            return [...canvas.children].map(one => one.getBoundingClientRect()).map(box =>
                [(box.left - left) / canvas.clientWidth, (box.top - top) / canvas.clientHeight,
                 box.width / canvas.clientWidth, box.height / canvas.clientHeight]);
        })()""")
        tile = vlm.manifest.vision.tile_size
        (left, top), (width, height) = plan.place, plan.resizes[-1]
        shares = (left / across / tile, top / down / tile, width / across / tile, height / down / tile)
        assert boxes[0] == pytest.approx(shares, abs=0.02)
        wanted = [
            (column / across, row / down, 1 / across, 1 / down) for row in range(down) for column in range(across)
        ]
        assert len(boxes) == 1 + len(wanted)
        for found, box in zip(boxes[1:], wanted, strict=True):
            assert found == pytest.approx(box, abs=0.02)
        assert [*map(int, page.run("[...document.querySelectorAll('#canvas b')].map(one => one.textContent)"))] == [
            number + (plan.thumbnail_index == 0) for number in range(len(wanted))
        ]
        page.run("document.querySelector('#remove').click()")
        assert page.run("canvas.hidden && !picture") is True


@pytest.mark.parametrize("how", ["button", "Escape"])
def test_stop_ends_the_answer_and_the_chat_goes_on(page: Page, slow: Served, how: str) -> None:
    visit(page, slow)
    before = slow.metric("answers_total", reason="cancelled")
    ask(page, "Go on.")
    until(lambda: text_of(page, "#log article:last-of-type p"))
    until_equal(lambda: slow.metric("requests_running"), 1)
    assert page.run("document.querySelectorAll('article[aria-busy=true]').length") == 1
    if how == "button":
        page.run("document.querySelector('#stop').click()")
    else:
        page.press("Escape", 27)
    slow.until_busy(0)
    said = answered(page)
    assert said and slow.metric("answers_total", reason="cancelled") == before + 1
    assert text_of(page, "#stats").startswith("Stopped after ")
    assert page.run("messages.length") == 2 and page.run("messages[1].content") == said
    ask(page, "And?")
    until_equal(lambda: slow.metric("requests_running"), 1)
    page.run("document.querySelector('#new').click()")
    slow.until_busy(0)
    assert page.run("messages.length + document.querySelector('#log').children.length") == 0
    assert page.run("document.activeElement.id") == "question"


def test_what_goes_wrong_is_said_and_the_question_stays(page: Page, served: Served, pictures: Path) -> None:
    visit(page, served)
    drop(page, Path(__file__), MARKUP)
    assert text_of(page, "#error") == f"{MARKUP} is no picture that this browser can show."
    ask(page, "x" * 2000)
    until(lambda: "fit into this bundle's KV cache" in text_of(page, "#error"))
    assert page.run("document.querySelector('#question').value") == "x" * 2000
    assert page.run("messages.length + document.querySelector('#log').children.length") == 0
    assert page.run("window.ran") is None
    page.run("document.querySelector('#question').value = ''")
    drop(page, pictures / "wide.png")
    assert text_of(page, "#error") == ""


def test_no_markup_of_a_model_or_a_person_runs(page: Page, start: Start, bundle: Path) -> None:
    planted = "import pocketvlm.serve.replies as r\nfrom pocketvlm.serve.worker import Said\npiece = r.Reply.piece\n"
    served = start(bundle, before=f"{planted}r.Reply.piece = lambda self, said: piece(self, Said({MARKUP!r}))\n")
    visit(page, served)
    ask(page, MARKUP)
    assert answered(page).startswith(MARKUP)
    assert text_of(page, "#log article p") == MARKUP
    assert page.run("document.querySelectorAll('#log img').length") == 0
    assert page.run("window.ran") is None
    # and if it came into the page, the policy would hold it
    page.run(f"document.body.insertAdjacentHTML('beforeend', {json.dumps(MARKUP)})")
    until(lambda: any("Content Security Policy" in str(said) for said in complaints(page)))
    assert page.run("window.ran") is None


def test_a_key_is_asked_for(page: Page, locked: Served) -> None:
    page.show(f"http://127.0.0.1:{locked.port}/", DESK)
    until(lambda: not page.run("document.querySelector('#key-section').hidden"))
    page.run("document.querySelector('#key').focus()")
    page.call("Input.insertText", text="the key")
    page.press("Enter", 13, "\r")
    until(lambda: text_of(page, "#model"))
    ask(page, "hi")
    assert answered(page)
    assert page.run("document.querySelector('#key-section').hidden") is True


@pytest.mark.parametrize(("width", "dark"), [(PHONE, False), (PHONE, True), (DESK, False), (DESK, True)])
def test_it_can_be_read_on_every_screen(page: Page, served: Served, pictures: Path, width: int, dark: bool) -> None:
    visit(page, served, width, dark=dark)
    drop(page, pictures / "wide.png")
    ask(page, "w" * 90)
    answered(page)
    drop(page, pictures / "wide.png")
    assert page.run(OVER_THE_EDGE) == []
    assert [one for one in page.run(OVERFULL) if not one.startswith(("SPAN.unseen", "INPUT.unseen"))] == []
    pairs = {(word, ground) for word, ground in page.run(colors_of(WORDS))}
    assert len(pairs) >= 3
    assert {pair: ratio for pair in pairs if (ratio := contrast(*pair)) < 4.5} == {}
    ground = luminance(page.run("getComputedStyle(document.body).backgroundColor"))
    assert ground < 0.1 if dark else ground > 0.8
    assert complaints(page) == []
    asked = requests(page)
    assert asked and all(url.startswith((f"http://127.0.0.1:{served.port}/", "data:")) for url in asked)


def test_screen_readers_and_keyboards_find_everything(page: Page, served: Served, pictures: Path) -> None:
    visit(page, served)
    drop(page, pictures / "wide.png")
    tree = page.call("Accessibility.getFullAXTree")["nodes"]
    named: dict[str, set[str]] = {}
    for node in tree:
        role = node.get("role", {}).get("value", "")
        if role in {"button", "textbox", "img", "image", "log", "region"} and not node.get("ignored"):
            named.setdefault(role, set()).add(node.get("name", {}).get("value", ""))
    assert not [role for role, names in named.items() if "" in names], named
    assert {"Ask", "Stop", "New chat", "Remove the picture"} <= named["button"]
    assert any(name.startswith("Choose a picture") for name in named["button"])
    assert "The picture, cut into 2 x 1 tiles and a thumbnail" in named.get("image", set()) | named.get("img", set())
    assert page.run("document.querySelectorAll('[aria-busy]').length") == 0
    assert {"Picture", "Chat"} <= named["region"] and named["log"] == {"Conversation"}
    page.run("document.activeElement.blur()")
    reached = []
    for _ in range(6):
        page.press("Tab", 9)
        reached.append(page.run("document.activeElement.id"))
    assert {"new", "file", "remove", "question", "ask"} <= set(reached)
