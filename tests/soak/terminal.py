"""Part 6, strangers' names on a terminal: whatever escapes they hold, each command shows them as text.

Commands run on a pseudo-terminal, since click strips escapes where there is none.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import random
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketvlm.bundle.open import MANIFEST
from pocketvlm.cli import main
from tests.soak.cases import Case, Cases, Found, Limits, Setup
from tests.soak.damage import repair
from tests.support.checkpoints import tiny_config, write_checkpoint

#: An export's start reads torch, a template is rendered in a process of its own.
LIMITS = Limits(seconds=30.0, peak_bytes=2 << 30, address_bytes=24 << 30)
#: What would set a title, clear the screen, colour, hide or turn text, move the cursor, ask the terminal.
HOSTILE = (
    "\x1b]0;title\x07", "\x1b[2J", "\x1b[8;35m", "\x1b[1A", "\x1b[?1049h", "\x1bc", "\x1b[6n", "\x9b2J",
    "\x9d0;x\x9c", "\x07", "\x08\x08", "\r", "\x7f", "\x0c", "\u202e", "\u2066", "\u2028", "\u2029", "\x85",
    "\x1bP1$r\x1b\\", "[link=x]", "[/]",
)  # fmt: skip
#: What rich writes: colours and styles, and where a bar is drawn anew.
OWN = re.compile(r"\x1b\[(?:[0-9;]*m|[0-9]?[AK]|\?25[lh])|\x1b\[2K|\r\n|\r")
ACTING = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u206f]")
WORDS = ("model", "a", " ", "7", "é", "東京", "x" * 40)


@dataclass(frozen=True)
class Ground:
    """Where a case is made, the bundle and checkpoint that it is made of, and what stands in it."""

    folder: Path
    bundle: Path
    checkpoint: Path
    payload: str

    def copied(self, source: Path, name: str = "copy") -> Path:
        """A copy; its name is ours."""
        return Path(shutil.copytree(source, self.folder / name))

    def changed(self, change: Callable[[dict[str, Any]], object], *, graphs: bool = False) -> Path:
        """The bundle with another manifest."""
        copy = self.copied(self.bundle)
        raw = json.loads((copy / MANIFEST).read_text())
        change(raw)
        (copy / MANIFEST).write_text(json.dumps(raw))
        if graphs:
            repair(copy)
        return copy

    def file_name(self) -> str:
        """The payload as a name of a file."""
        return self.payload.replace("/", "_").replace("\0", "")[:60] or "x"


Place = Callable[[Ground], list[str]]


def _inspected(change: Callable[[dict[str, Any], str], object], *more: str) -> Place:
    return lambda ground: ["inspect", str(ground.changed(lambda raw: change(raw, ground.payload))), *more]


def _parts(raw: dict[str, Any]) -> dict[str, Any]:
    parts: dict[str, Any] = raw["engines"]["onnx"]
    return parts


def _of_first_tensor(key: str) -> Callable[[dict[str, Any], str], object]:
    return lambda raw, text: next(iter(raw["recipe"]["tensors"].values())).update({key: text})


def _spec(key: str, value: Callable[[str], Any] = str) -> Callable[[dict[str, Any], str], object]:
    return lambda raw, text: next(iter(_parts(raw).values()))["inputs"][0].update({key: value(text)})


def _directory(ground: Ground) -> list[str]:
    return ["inspect", str(ground.copied(ground.bundle, ground.file_name()))]


def _answer(ground: Ground) -> list[str]:
    """The model says an escape and nothing else, and its tokens are the payload."""
    copy = ground.copied(ground.bundle)
    path = copy / "tokenizer.json"
    raw = json.loads(path.read_text())
    raw["decoder"] = {"type": "Replace", "pattern": {"Regex": "."}, "content": ground.payload[:64]}
    path.write_text(json.dumps(raw))
    repair(copy)
    return ["run", str(copy), "--prompt", "x", "--max-new-tokens", "2", "--threads", "1"]


def _chat(ground: Ground) -> list[str]:
    """The banner of a chat, which is left at once."""
    copy = ground.changed(lambda raw: raw["model"].update(name=ground.payload[:500]))
    return ["run", str(copy), "--threads", "1"]


def _questions(ground: Ground) -> list[str]:
    path = ground.folder / "data.jsonl"
    row = {"question": ground.payload, "answer": ground.payload, "group": ground.payload}
    path.write_text(json.dumps(row) + "\n")
    return ["eval", str(ground.bundle), str(path), "--threads", "1", "--max-new-tokens", "1", "--wrong", "1"]


def _results(ground: Ground) -> list[str]:
    path = ground.folder / "results.json"
    path.write_text(json.dumps({"schema": ground.payload, ground.payload: 1}))
    return ["compare", str(path), str(path)]


def _config(change: Callable[[dict[str, Any], str], object], command: str) -> Place:
    def place(ground: Ground) -> list[str]:
        copy = ground.copied(ground.checkpoint)
        raw = json.loads((copy / "config.json").read_text())
        change(raw, ground.payload)
        (copy / "config.json").write_text(json.dumps(raw))
        return [command, str(copy), *(["-o", str(ground.folder / "out")] if command == "export" else [])]

    return place


def _template(ground: Ground) -> list[str]:
    copy = ground.copied(ground.checkpoint)
    (copy / "chat_template.jinja").write_text(f"{{{{ raise_exception({json.dumps(ground.payload)}) }}}}")
    return ["export", str(copy), "-o", str(ground.folder / "out")]


def _shard(ground: Ground) -> list[str]:
    copy = ground.copied(ground.checkpoint)
    (copy / "model.safetensors").unlink()
    index = {"weight_map": {ground.payload: ground.file_name()}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    return ["export", str(copy), "-o", str(ground.folder / "out")]


def _weights(ground: Ground) -> list[str]:
    """Names and data types in the head of the weights."""
    copy = ground.copied(ground.checkpoint)
    head = json.dumps({ground.payload: {"dtype": ground.payload, "shape": [1], "data_offsets": [0, 4]}}).encode()
    (copy / "model.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + bytes(4))
    return ["export", str(copy), "-o", str(ground.folder / "out")]


def _recipe(ground: Ground) -> list[str]:
    path = ground.folder / "recipe.toml"
    path.write_text(f"{json.dumps(ground.payload)} = 1\n")
    return ["export", str(ground.checkpoint), "-o", str(ground.folder / "out"), "--recipe", str(path)]


def _picture(ground: Ground) -> list[str]:
    path = ground.folder / f"{ground.file_name()}.png"
    path.write_bytes(b"no picture")
    return ["tile", str(path)]


PLACES: dict[str, Place] = {
    "a model's name": _inspected(lambda raw, text: raw["model"].update(name=text[:500], family=text[:500])),
    "a model's name, as JSON": _inspected(lambda raw, text: raw["model"].update(name=text[:500]), "--json"),
    "a part's name": _inspected(lambda raw, text: _parts(raw).update({text[:500]: next(iter(_parts(raw).values()))})),
    "a tensor's name": _inspected(lambda raw, text: raw["recipe"]["tensors"].update(
        {text[:500]: next(iter(raw["recipe"]["tensors"].values()))}
    )),
    "a quantizer's name": _inspected(_of_first_tensor("quantizer")),
    "a recipe's name": _inspected(lambda raw, text: raw["recipe"].update(name=text[:500])),
    "an input's name": _inspected(_spec("name")),
    "a dimension's name": _inspected(_spec("shape", lambda text: [text])),
    "a data type": _inspected(_spec("dtype")),
    "a literal": _inspected(lambda raw, text: raw["chat"].update(start=text)),
    "a key": _inspected(lambda raw, text: raw.update({text: 1})),
    "a file's name": _inspected(lambda raw, text: raw["files"].update({text: next(iter(raw["files"].values()))})),
    "a version": _inspected(lambda raw, text: raw["minimum_runtime"].update(pocketvlm=text[:500])),
    "a version, at load": lambda ground: ["run", *_inspected(
        lambda raw, text: raw["minimum_runtime"].update(pocketvlm=text[:500])
    )(ground)[1:], "--prompt", "x"],
    "a directory": _directory,
    "no directory": lambda ground: ["inspect", str(ground.folder / ground.file_name())],
    "an answer": _answer,
    "a chat's banner": _chat,
    "questions": _questions,
    "results": _results,
    "a type of model": _config(lambda raw, text: raw.update(model_type=text), "plan"),
    "a config's key": _config(lambda raw, text: raw.update({text: {text: text}}), "plan"),
    "an image token": _config(lambda raw, text: raw.update(image_token=text), "export"),
    "a template's error": _template,
    "a shard": _shard,
    "weights": _weights,
    "a recipe's key": _recipe,
    "a picture": _picture,
    "an option": lambda ground: [f"--{ground.file_name()}"],
    "a command": lambda ground: [ground.file_name()],
}  # fmt: skip


def payload(random_: random.Random) -> str:
    """Hostile sequences among words."""
    return "".join(random_.choices((*HOSTILE, *WORDS), k=random_.randint(2, 12))) + random_.choice(HOSTILE[:11])


def cases(setup: Setup) -> Cases:
    """The places take turns."""
    checkpoint = setup.sandbox / "checkpoint"
    write_checkpoint(checkpoint, tiny_config("qwen2", tie_word_embeddings=False))

    def case(index: int) -> Case:
        name = list(PLACES)[index % len(PLACES)]
        folder = setup.sandbox / "case"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        text = payload(setup.random("terminal", index))
        ground = Ground(folder, setup.bundles["tiny"], checkpoint, text)
        return Case(f"{name}: {text!a}"[:300], lambda: check(PLACES[name](ground), text))

    return case


def check(arguments: list[str], text: str) -> Found:
    """Run a command on a terminal: nothing but rich's own escapes comes out, and no traceback."""
    status, shown = on_a_terminal(arguments)
    left = OWN.sub("", shown)
    if found := ACTING.search(left):
        return Found("wrong", f"{found[0]!a} came out: {left[max(0, found.start() - 60) : found.end() + 60]!a}")
    if "\x1b[8;35m" in shown:  # a colour of the payload's
        return Found("wrong", f"the payload's colour came out: {shown[:200]!a}")
    if "Traceback" in shown or status not in (0, 1, 2):
        return Found("wrong", f"exit status {status}: {left[-300:]!a}")
    return Found("right" if status == 0 else "refused", "")


def on_a_terminal(arguments: list[str], typed: str = "/quit\n") -> tuple[int, str]:
    """Exit status of a command, and what a terminal gets of it."""
    master, slave = pty.openpty()
    received: list[bytes] = []
    reader = threading.Thread(target=_drain, args=(master, received), daemon=True)
    reader.start()
    os.write(master, typed.encode())
    try:
        with _terminal(slave):
            try:
                main(arguments, prog_name="pocketvlm")
                status = 0
            except SystemExit as end:
                status = end.code if isinstance(end.code, int) else 1
    finally:
        os.close(slave)
    reader.join()
    os.close(master)
    return status, b"".join(received).decode(errors="surrogateescape").replace(typed.replace("\n", "\r\n"), "", 1)


@contextlib.contextmanager
def _terminal(slave: int) -> Iterator[None]:
    """Standard streams are the terminal's, also for processes that a command starts."""
    before = sys.stdin, sys.stdout, sys.stderr, os.dup(2)
    os.dup2(slave, 2)
    sys.stdin = open(os.dup(slave), encoding="utf-8", errors="surrogateescape")  # noqa: SIM115, PTH123
    sys.stdout, sys.stderr = (
        open(os.dup(slave), "w", encoding="utf-8", errors="backslashreplace", buffering=1)  # noqa: SIM115, PTH123
        for _ in range(2)
    )
    try:
        yield
    finally:
        for stream in (sys.stdin, sys.stdout, sys.stderr):
            stream.close()
        sys.stdin, sys.stdout, sys.stderr = before[:3]
        os.dup2(before[3], 2)
        os.close(before[3])


def _drain(master: int, received: list[bytes]) -> None:
    """All that comes, until nobody has the other end any more."""
    while True:
        try:
            block = os.read(master, 1 << 16)
        except OSError:
            return
        if not block:
            return
        received.append(block)
