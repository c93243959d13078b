"""A bundle as a .litertlm: the stock LiteRT-LM answers as this runtime, and what it cannot be told is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pytest
from click.testing import CliRunner

from pocketvlm.bundle.open import Bundle, open_bundle
from pocketvlm.cli import main
from pocketvlm.errors import ChatError, ExportError
from pocketvlm.export import export_bundle
from pocketvlm.export.litert import container
from pocketvlm.export.litert.container import template_of, write_litertlm
from pocketvlm.export.read.chat_template import read_chat, render_literals
from pocketvlm.runtime import GenerationConfig, load
from pocketvlm.runtime.litert_lm import message_parts
from pocketvlm.scenes import held_out
from tests.export.read.test_chat_template import write
from tests.support.bundles import picture
from tests.support.chat_templates import TEMPLATES
from tests.support.checkpoints import tiny_config, write_checkpoint

#: A process of its own: it says what it finds on stderr, and shares nothing with the engine under test.
ASK = """
import json, sys
import litert_lm
path, sees, most = sys.argv[1], sys.argv[2] == "sees", int(sys.argv[3])
cpu = litert_lm.Backend.CPU(thread_count=1)
options = {"vision_backend": litert_lm.Backend.CPU(), "max_num_images": 16} if sees else {}
greedy = litert_lm.SamplerConfig(top_k=1, temperature=0.0, seed=1)
answers = []
with litert_lm.Engine(path, backend=cpu, **options) as engine:
    for content in json.load(sys.stdin):
        with engine.create_conversation(sampler_config=greedy, max_output_tokens=most) as conversation:
            parts = conversation.send_message({"role": "user", "content": content})["content"]
            answers.append("".join(part["text"] for part in parts))
print(json.dumps(answers))
"""


def asked(path: Path, contents: list[Any], most: int, *, sees: bool) -> list[str]:
    """What the stock LiteRT-LM answers."""
    done = subprocess.run(
        [sys.executable, "-c", ASK, str(path), "sees" if sees else "reads", str(most)],
        input=json.dumps(contents), capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    answers: list[str] = json.loads(done.stdout.splitlines()[-1])
    return answers


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Bundle:
    """The built-in model, with a cache of INT8."""
    return export_bundle(
        repository / "examples" / "reader" / "checkpoint",
        tmp_path_factory.mktemp("reader") / "bundle",
        recipe="bluelm-v-3b",
        backends=["litert"],
    )


def test_the_stock_runtime_answers_as_this_one_about_pictures(reader: Bundle, tmp_path: Path) -> None:
    notes: list[str] = []
    write_litertlm(reader, tmp_path / "reader.litertlm", notes.append)
    assert [path.name for path in tmp_path.iterdir()] == ["reader.litertlm"]
    assert len(notes) == 1
    assert "scales each image to one tile" in notes[0]
    examples = list(held_out("test", 12))
    with load(reader.location, threads=1) as vlm:
        greedy = GenerationConfig(max_new_tokens=48)
        wanted = [vlm.stream(one.question, [one.image], greedy).read() for one in examples]
    contents = [message_parts(reader, one.question, [one.image]) for one in examples]
    assert max(len(content) for content in contents) > 6
    found = asked(tmp_path / "reader.litertlm", contents, 48, sees=True)
    assert found == wanted
    assert sum(answer.strip() == one.answer for answer, one in zip(found, examples, strict=True)) > 8


def test_a_planted_fault_changes_the_answers(reader: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels as LiteRT-LM gives them, without what the processor does to them."""
    graft = container.WrittenParts.graft

    def darker(self: Any, graph: Any, name: str, taken: dict[str, Any]) -> dict[str, Any]:
        if "pixel_values" in taken:
            taken = {"pixel_values": graph.scaled(taken["pixel_values"], 0.2)}
        return graft(self, graph, name, taken)

    monkeypatch.setattr(container.WrittenParts, "graft", darker)
    write_litertlm(reader, tmp_path / "dark.litertlm")
    examples = list(held_out("test", 4))
    contents = [message_parts(reader, one.question, [one.image]) for one in examples]
    found = asked(tmp_path / "dark.litertlm", contents, 48, sees=True)
    assert sum(answer.strip() == one.answer for answer, one in zip(found, examples, strict=True)) < 3


def test_the_stock_runtime_answers_as_this_one_in_text(tmp_path: Path) -> None:
    """A model with random weights, a tied table and a norm a head; more than one prefill of text."""
    write_checkpoint(tmp_path / "checkpoint", tiny_config("qwen3", vision=False, tie_word_embeddings=True))
    bundle = export_bundle(
        tmp_path / "checkpoint", tmp_path / "bundle", recipe="int4-g32", backends=["litert"], max_length=320
    )
    questions = ["Hello", "What is the total of it? " * 7]
    with load(bundle.location, threads=1) as vlm:
        wanted = [vlm.stream(one, config=GenerationConfig(max_new_tokens=8)).read() for one in questions]
        assert len(vlm.tokenize(questions[1])) > 128
    write_litertlm(bundle, tmp_path / "text.litertlm")
    found = asked(tmp_path / "text.litertlm", [[{"type": "text", "text": one}] for one in questions], 8, sees=False)
    assert found == wanted


def test_tiles_come_with_the_markers_of_the_layout(reader: Bundle) -> None:
    parts = message_parts(reader, "Which?", [picture(300, 150)])
    assert [part["type"] for part in parts[:3]] == ["text", "image", "text"]
    assert parts[0]["text"].startswith("<|image_start|>")
    assert parts[-1]["text"].endswith("<|image_end|>Which?")
    assert message_parts(reader, "Hello", []) == [{"type": "text", "text": "Hello"}]


def test_a_model_that_does_not_see_gets_no_image(litert_bundles: dict[str, Path], tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoint", tiny_config(vision=False))
    bundle = export_bundle(tmp_path / "checkpoint", tmp_path / "bundle", recipe="int4-g32", backends=["litert"])
    with pytest.raises(ChatError, match="takes text only"):
        message_parts(bundle, "What?", [picture(30, 30)])


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_say_what_the_layouts_say_or_are_refused(tmp_path: Path, name: str) -> None:
    chat = read_chat(write(tmp_path, TEMPLATES[name].template)).layout
    assert chat is not None
    if chat.reasoning is not None or chat.images_first or chat.text is not None or chat.system_joins:
        with pytest.raises(ExportError, match="the chat layout"):
            template_of(chat, "<image>")
        return
    environment = jinja2.Environment(autoescape=False)
    template = environment.from_string(template_of(chat, "<image>"))
    messages = [{"role": role, "content": f" {role}'s\\ {{x}}\n\ttext "} for role in ("user", "assistant", "user")]
    for dialogue in (messages, messages[:1], [{"role": "system", "content": "Be brief."}, *messages]):
        if dialogue[0]["role"] == "system" and "system" not in chat.roles:
            continue
        wanted = render_literals(chat, dialogue, True)
        assert template.render(messages=dialogue, add_generation_prompt=True) == wanted
        parts = [{**one, "content": [{"type": "text", "text": one["content"]}]} for one in dialogue]
        assert template.render(messages=parts, add_generation_prompt=True) == wanted


def test_what_litert_lm_cannot_be_told_is_refused(
    litert_bundles: dict[str, Path], tiny_bundles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = open_bundle(litert_bundles["int4-g32"])
    manifest = whole.manifest
    with pytest.raises(ExportError, match="has no LiteRT parts: export it with --backend litert"):
        write_litertlm(open_bundle(tiny_bundles["fp32"]), tmp_path / "model.litertlm")
    assert manifest.vision is not None
    packed = manifest.vision.model_copy(update={"packing": object()})
    for change, line in (
        ({"chat": None}, "asks for a chat template"),
        ({"vision": packed}, "no way to take padding out"),
    ):
        monkeypatch.setattr(Bundle, "for_engine", lambda self, name, change=change: self)
        other = Bundle(whole.location, manifest.model_copy(update=change))
        with pytest.raises(ExportError, match=line):
            write_litertlm(other, tmp_path / "model.litertlm")
    with pytest.raises(ExportError, match="its directory does not exist"):
        write_litertlm(whole, tmp_path / "nowhere" / "model.litertlm")
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_it_whole(litert_bundles: dict[str, Path], tmp_path: Path) -> None:
    output = tmp_path / "model.litertlm"
    output.write_text("what stood there")
    done = CliRunner().invoke(main, ["litertlm", str(litert_bundles["int4-g32"]), "-o", str(output)])
    assert done.exit_code == 0, done.stderr
    assert output.read_bytes()[:8] == b"LITERTLM"
    assert [path.name for path in tmp_path.iterdir()] == ["model.litertlm"]
    assert "note: LiteRT-LM scales" in done.stderr
    before = output.read_bytes()
    refused = CliRunner().invoke(main, ["litertlm", str(tmp_path), "-o", str(output)])
    assert refused.exit_code == 1
    assert output.read_bytes() == before


def test_weights_are_the_bundles(litert_bundles: dict[str, Path], tmp_path: Path) -> None:
    """Each constant of the bundle's decoder is in the file, byte for byte."""
    from ai_edge_litert import schema_py_generated as schema

    bundle = open_bundle(litert_bundles["int4-g32"])
    write_litertlm(bundle, tmp_path / "model.litertlm")
    packed, content = (tmp_path / "model.litertlm").read_bytes(), bundle.path("text.tflite").read_bytes()
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    large = [one for one in model.buffers if one.size]
    assert len(large) > 14
    for one in large:
        data = np.frombuffer(content[one.offset : one.offset + one.size], np.uint8).tobytes()
        assert data in packed
