"""A bundle as a .litertlm: the stock LiteRT-LM answers as this runtime, and what it cannot be told is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from pocketvlm.bundle.open import Bundle, open_bundle
from pocketvlm.cli import main
from pocketvlm.errors import ChatError, ExportError
from pocketvlm.export import export_bundle
from pocketvlm.export.litert import container
from pocketvlm.export.litert.container import template_of, write_litertlm
from pocketvlm.export.read.chat_template import read_chat
from pocketvlm.export.read.literals import render_literals
from pocketvlm.runtime import GenerationConfig, load
from pocketvlm.runtime.litert_lm import message_parts
from pocketvlm.scenes import held_out
from tests.export.read.test_chat_template import write
from tests.support.bundles import picture
from tests.support.chat_templates import TEMPLATES
from tests.support.checkpoints import edited, tiny_config, write_checkpoint

#: A process of its own: it says what it finds on stderr, and shares nothing with the engine under test.
ASK = """
import json, sys
import litert_lm
path, sees, most, more = sys.argv[1], sys.argv[2] == "sees", int(sys.argv[3]), json.loads(sys.argv[4])
npu = sys.argv[5] == "npu"
# Without a library of a vendor's its executor for NPUs runs what is not compiled on the CPU.
backend = litert_lm.Backend.NPU(litert_dispatch_lib_dir="") if npu else litert_lm.Backend.CPU(thread_count=1)
options = {"vision_backend": litert_lm.Backend.CPU(), "max_num_images": 16} if sees else {}
greedy = litert_lm.SamplerConfig(top_k=1, temperature=0.0, seed=1)
answers = []
with litert_lm.Engine(path, backend=backend, **options) as engine:
    for turns in json.load(sys.stdin):
        with engine.create_conversation(sampler_config=greedy, max_output_tokens=most, **more) as conversation:
            messages = [conversation.send_message({"role": "user", "content": content}) for content in turns]
            answers.append(["".join(part["text"] for part in message["content"]) for message in messages])
print(json.dumps(answers))
"""
#: Of the built-in model's text part, whose norms a head are 1 in the original: so that it still ends its answers.
HEAD_NORM = 2.5


def talked(
    path: Path, dialogues: list[list[Any]], most: int, *, sees: bool, npu: bool = False, **more: Any
) -> list[list[str]]:
    """What the stock LiteRT-LM answers to the questions of each dialogue; ``more`` is said of each conversation."""
    said = [str(path), "sees" if sees else "reads", str(most), json.dumps(more), "npu" if npu else "cpu"]
    done = subprocess.run(
        [sys.executable, "-c", ASK, *said],
        input=json.dumps(dialogues), capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    answers: list[list[str]] = json.loads(done.stdout.splitlines()[-1])
    return answers


def asked(path: Path, contents: list[Any], most: int, *, sees: bool) -> list[str]:
    """What the stock LiteRT-LM answers to single questions."""
    return [answer for (answer,) in talked(path, [[content] for content in contents], most, sees=sees)]


def answered(bundle: Bundle, dialogues: list[list[Any]], most: int) -> list[list[str]]:
    """What this runtime answers to the questions of each dialogue, its own answers between them."""
    answers = []
    with load(bundle.location, threads=1) as vlm:
        for turns in dialogues:
            messages: list[dict[str, Any]] = []
            for content in turns:
                messages.append({"role": "user", "content": content})
                answer = vlm.stream(messages, config=GenerationConfig(max_new_tokens=most)).read()
                messages.append({"role": "assistant", "content": answer})
            answers.append([message["content"] for message in messages[1::2]])
    return answers


def text_bundle(directory: Path, repository: Path, family: str) -> Bundle:
    """The built-in model's text part by itself: it ends its answers."""
    source, checkpoint = repository / "examples" / "reader" / "checkpoint", directory / family
    checkpoint.mkdir()
    whole = load_file(source / "model.safetensors")
    weights = {name: weight for name, weight in whole.items() if name.startswith("model.")}
    if family == "qwen3":
        norms = (f"model.layers.{layer}.self_attn.{part}_norm.weight" for layer in range(4) for part in "qk")
        weights |= {name: torch.full((64,), HEAD_NORM) for name in norms}
    save_file(weights, checkpoint / "model.safetensors")
    config = json.loads((source / "config.json").read_text())["text_config"]
    (checkpoint / "config.json").write_text(json.dumps({**config, "model_type": family}))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"):
        shutil.copy(source / name, checkpoint / name)
    bundle = directory / f"{family}-bundle"
    return export_bundle(checkpoint, bundle, recipe="int4-g32", backends=["litert"], max_length=320)


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


#: Second answers hang on what stands before the question.
DIALOGUES = [
    ["Hello", "What is the title?", "Who?"],
    ["What is the title? " * 8, "How many?", "Hello"],
    ["How many?", "What is written?"],
    ["Who?", "What is the total of it?"],
]


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_a_second_question_has_the_first_one_and_its_answer_before_it(
    tmp_path: Path, repository: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = text_bundle(tmp_path, repository, family)
    wanted = answered(bundle, DIALOGUES, 24)
    assert len({answer for answers in wanted for answer in answers}) > 4
    write_litertlm(bundle, tmp_path / "text.litertlm")
    assert talked(tmp_path / "text.litertlm", DIALOGUES, 24, sees=False) == wanted
    # A template that says what follows the end of an answer before the next question is asked: it is never read.
    monkeypatch.setattr(container, "_split_at_stop", lambda chat, stops: (chat.roles["assistant"].suffix, ""))
    write_litertlm(bundle, tmp_path / "late.litertlm")
    assert talked(tmp_path / "late.litertlm", DIALOGUES, 24, sees=False) != wanted


def test_a_second_question_about_a_picture(reader: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LiteRT-LM gives the token that ended an answer as a number in a row of zeros. (This model says the same where it
    stays one; without all that goes through there it does not.)"""
    examples, further = list(held_out("test", 6)), [{"type": "text", "text": "And what is the date?"}]
    dialogues = [[message_parts(reader, one.question, [one.image]), further] for one in examples]
    wanted = answered(
        reader,
        [
            [[{"type": "image", "image": one.image}, {"type": "text", "text": one.question}], further]
            for one in examples
        ],
        48,
    )
    write_litertlm(reader, tmp_path / "reader.litertlm")
    assert talked(tmp_path / "reader.litertlm", dialogues, 48, sees=True) == wanted
    monkeypatch.setattr(container, "_looked_up", lambda text, graph, rows: graph.multiply(rows, graph.scalar(0.0)))
    write_litertlm(reader, tmp_path / "nothing.litertlm")
    assert talked(tmp_path / "nothing.litertlm", dialogues, 48, sees=True) != wanted


def test_reasoning_of_earlier_answers_is_dropped(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Letters of the model's answer stand for what begins reasoning and what ends it."""
    bundle = text_bundle(tmp_path, repository, "llama")
    questions: list[Any] = ["Hello", "What is the title?"]
    plain = answered(bundle, [questions], 24)
    begin, end = plain[0][0][0], plain[0][0][-2]
    assert begin not in plain[0][0][1:]
    assert end not in plain[0][0][:-2]
    edited(bundle.location / "manifest.json", lambda raw: raw["chat"].update(reasoning={"end": end, "trim": "\n"}))
    monkeypatch.setattr(container, "REASONING", {end: begin})
    bundle, notes = open_bundle(bundle.location), list[str]()
    wanted = answered(bundle, [questions], 24)
    assert wanted[0][1] != plain[0][1]
    write_litertlm(bundle, tmp_path / "thinks.litertlm", notes.append)
    assert "filter_channel_content_from_kv_cache" in notes[0]
    kept = {"filter_channel_content_from_kv_cache": True}
    ((first, second),) = talked(tmp_path / "thinks.litertlm", [questions], 24, sees=False, **kept)
    assert (first, second) == (wanted[0][0][-1:], wanted[0][1])


def test_what_no_template_mends_is_noted(reader: Bundle) -> None:
    assert len(list(container._limits(reader.manifest, ["<|im_end|>"]))) == 1
    assert any("begins with no stop token" in line for line in container._limits(reader.manifest, ["</s>"]))


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
    trims_alone = chat.reasoning is not None and chat.reasoning.end is None
    stops = ["<|im_end|>", "</s>"]
    if trims_alone or chat.images_first or chat.text is not None or chat.system_joins:
        with pytest.raises(ExportError, match="the chat layout"):
            template_of(chat, "<image>", stops)
        return
    environment = jinja2.Environment(autoescape=False)
    template = environment.from_string(template_of(chat, "<image>", stops))
    messages = [{"role": role, "content": f" {role}'s\\ {{x}}\n\ttext "} for role in ("user", "assistant", "user")]
    messages += [{"role": "assistant", "content": "<think>\nof it\n</think>\n\nIt is."}, messages[0]]
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
