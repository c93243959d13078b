"""``pocketvlm eval --against`` beside a computation with the whole model in PyTorch; gate, files and errors."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

from pocketvlm.bench.accuracy.teacher_forced import MAX_TEXT_BYTES, open_teacher_forced
from pocketvlm.bench.report.plots import layers as layer_plot
from pocketvlm.bundle.archive import write_archive
from pocketvlm.bundle.open import MANIFEST, open_bundle
from pocketvlm.cli import main
from pocketvlm.errors import BundleError
from pocketvlm.export import export_bundle
from pocketvlm.fidelity import groups
from pocketvlm.fidelity.trace import Trace, with_outputs
from pocketvlm.images.prepare import cut_tiles, normalize, preprocessing_of
from pocketvlm.models.bluelm_v import BluelmV
from pocketvlm.runtime import load
from tests.support.bundles import KV_LENGTH, Exported, exported
from tests.support.checkpoints import tiny_config, write_checkpoint

END = 256
"""<|end|>, which ends every message of the tiny models"""
TEXT = "All of the pictures are drawn, and none of them is of anything that exists. " * 6


def evaluate(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["eval", *map(str, arguments), "--threads", "1"])


def report(bundle: Exported, data: Path, *arguments: str | Path) -> dict[str, Any]:
    found = evaluate(bundle.path, data, "--against", checkpoint(bundle), "--json", *arguments)
    assert found.exit_code == 0, found.output
    content: dict[str, Any] = json.loads(found.stdout)
    return content


def checkpoint(bundle: Exported) -> Path:
    """The checkpoint beside the bundle, which is called after it."""
    return bundle.path.with_name("-".join(bundle.path.name.split("-")[:2]))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """One question about a picture of two tiles, one about two pictures, one about none."""
    Image.new("RGB", (60, 60), (200, 0, 0)).save(tmp_path / "red.png")
    noise = np.random.default_rng(0).integers(0, 256, (70, 140, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "wide.png")
    rows = [
        {"image": "wide.png", "question": "How many?", "answers": ["Seven", "7"]},
        {"images": ["red.png", "red.png"], "question": "Which one is red?", "answer": "Both are."},
        {"question": "What is 1 + 1?", "answer": "2"},
    ]
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


# --- The numbers ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def whole_logits(model: BluelmV, token_ids: list[int], pixels: Tensor | None, placeholder: int | None) -> Tensor:
    """[tokens, vocabulary]: the whole model at once, image tokens put in by hand."""
    embedded = model.embed_tokens(torch.tensor(token_ids)[None])
    if pixels is not None:
        rows = model.encode_tiles(pixels).flatten(0, 1)
        places = [place for place, token_id in enumerate(token_ids) if token_id == placeholder]
        embedded[0, places] = rows
    return model(embedded)[0]


def direct(bundle: Exported, file: Path) -> tuple[list[Tensor], Tensor, Tensor]:
    """KL divergence of each question's scored tokens, their losses, and whether the most likely token is the same."""
    divergences, losses, agrees = [], [], []
    tokenizer = Tokenizer.from_file(str(bundle.path / "tokenizer.json"))
    with load(bundle.path, threads=1) as vlm:
        assert vlm.manifest.vision is not None
        preprocessing = preprocessing_of(vlm.manifest.vision)
        for row in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
            images = [Image.open(file.parent / name) for name in row.get("images", [row.get("image")]) if name]
            answer = row["answers"][0] if "answers" in row else row["answer"]
            prompt = vlm.tokenize(row["question"], images).tolist()
            token_ids = [*prompt, *tokenizer.encode(answer).ids, END]
            tiles = [cut_tiles(image, preprocessing).pixels for image in images]
            pixels = torch.from_numpy(normalize(np.concatenate(tiles), preprocessing)) if tiles else None
            original = whole_logits(bundle.model, token_ids, pixels, vlm.manifest.tokens.image)
            found = torch.from_numpy(vlm.logits(token_ids, images))
            log_p, log_q = (side[len(prompt) - 1 : -1].double().log_softmax(-1) for side in (original, found))
            divergences.append(F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1))
            right = torch.tensor(token_ids[len(prompt) :])
            losses.append(torch.stack([F.nll_loss(side, right, reduction="none") for side in (log_p, log_q)]))
            agrees.append(log_p.argmax(-1) == log_q.argmax(-1))
    return divergences, torch.cat(losses, dim=-1), torch.cat(agrees)


@pytest.mark.parametrize("recipe", ["int4-g32", "bluelm-v-3b"])
def test_the_scores_are_those_of_the_whole_model_in_pytorch(file: Path, recipe: str) -> None:
    """``bluelm-v-3b`` has an INT8 KV cache."""
    bundle = exported(recipe)
    content = report(bundle, file)
    logits = content["fidelity"]["logits"]
    divergences, losses, agrees = direct(bundle, file)
    every = torch.cat(divergences)
    assert logits["tokens"] == len("Seven") + len("Both are.") + len("2") + 3 == len(every)
    assert logits["kl_mean"]["value"] == pytest.approx(float(every.mean()), rel=1e-3)
    assert logits["kl_median"] == pytest.approx(float(np.median(every.numpy())), rel=1e-3)
    assert logits["kl_max"] == pytest.approx(float(every.max()), rel=1e-3)
    assert logits["kl_mean"]["value"] > 1e-5
    assert logits["kl_mean"]["low"] < logits["kl_mean"]["value"] < logits["kl_mean"]["high"]
    assert logits["top1_agreement"] == float(agrees.double().mean())
    original, shipped = losses.mean(-1).exp().tolist()
    assert logits["perplexity_original"] == pytest.approx(original, rel=1e-4)
    assert logits["perplexity_bundle"] == pytest.approx(shipped, rel=1e-4)
    assert logits["perplexity_ratio"]["value"] == pytest.approx(shipped / original, rel=1e-4)
    by_question = content["by_question"]
    assert [item["question"] for item in by_question] == ["How many?", "Which one is red?", "What is 1 + 1?"]
    means = [float(divergence.mean()) for divergence in divergences]
    assert [item["kl_mean"] for item in by_question] == pytest.approx(means, rel=1e-3)


def test_without_quantization_nothing_is_lost(file: Path) -> None:
    content = report(exported("fp32"), file)
    found = content["fidelity"]
    assert found["logits"]["kl_max"] < 1e-6
    assert found["logits"]["top1_agreement"] == 1
    assert found["logits"]["perplexity_ratio"]["value"] == pytest.approx(1, abs=1e-4)
    # tiny models put a thumbnail before each picture: 3 and twice 2 tiles of 25 tokens
    assert found["image_tokens"]["tokens"] == 175
    assert found["image_tokens"]["cosine_p1"] == pytest.approx(1, abs=1e-6)
    assert found["image_tokens"]["relative_error"] < 1e-4
    layers = found["layers"]
    assert layers["questions"] == content["questions"] == 3
    assert [layer["layer"] for layer in layers["decoder"]] == [layer["layer"] for layer in layers["vision"]] == [0, 1]
    errors = [layer[name] for name in ("text", "all") for layer in layers["decoder"]]
    errors += [layer["all"] for layer in layers["vision"]]
    assert all(0 < error < 1e-4 for error in errors)


def test_errors_of_layers_are_those_of_the_shipped_graph(file: Path) -> None:
    """The relative errors once more: all questions' values in one row, the original's from hooks on the whole model."""
    bundle = exported("int4-g32")
    found: dict[tuple[str, int], list[np.ndarray]] = defaultdict(list)
    wanted: dict[tuple[str, int], list[np.ndarray]] = defaultdict(list)
    opened = open_bundle(bundle.path)
    with load(bundle.path, threads=1) as vlm, Trace(opened, 2, 1) as trace:
        assert vlm.manifest.vision is not None
        preprocessing, placeholder = preprocessing_of(vlm.manifest.vision), vlm.manifest.tokens.image
        for item in open_teacher_forced(str(file), None, vlm, opened).items:
            tiles = [normalize(picture.tiled.pixels, preprocessing) for picture in item.pictures]
            pixels = np.concatenate(tiles) if tiles else None
            with watched(bundle.model) as seen:
                whole_logits(
                    bundle.model,
                    item.inputs.tolist(),
                    None if pixels is None else torch.from_numpy(pixels),
                    placeholder,
                )
            here = item.inputs != placeholder
            tokens = vlm.encode_images(item.pictures) if tiles else None
            for layer, hidden in enumerate(trace.text(item.inputs, tokens, np.arange(len(item.inputs)))):
                exact = seen[layer - 2][0]
                for name, rows in (("text", here), ("all", slice(None))):
                    found[name, layer].append(hidden[rows].ravel())
                    wanted[name, layer].append(exact[rows].ravel())
            for layer, hidden in enumerate([] if pixels is None else trace.vision(pixels, None)):
                found["vision", layer].append(hidden.ravel())
                wanted["vision", layer].append(seen[layer].ravel())
    layers = report(bundle, file)["fidelity"]["layers"]
    for (name, layer), parts in wanted.items():
        exact, mine = np.concatenate(parts), np.concatenate(found[name, layer])
        error = np.linalg.norm(mine - exact) / np.linalg.norm(exact)
        stated = layers["vision"][layer]["all"] if name == "vision" else layers["decoder"][layer][name]
        assert stated == pytest.approx(float(error), rel=1e-3)
        assert stated > 1e-3


@contextmanager
def watched(model: BluelmV) -> Iterator[list[np.ndarray]]:
    """The outputs of the layers of vision tower and decoder, in the order in which they are computed."""
    seen: list[np.ndarray] = []
    layers = (*model.vision_tower.encoder.layers, *model.model.layers)
    hooks = [layer.register_forward_hook(lambda _, __, output: seen.append(output.numpy())) for layer in layers]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def test_groups_archives_and_less_tracing_change_nothing_else(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = exported("int4-g32")
    before = {path.name: path.stat().st_mtime_ns for path in bundle.path.iterdir()}
    whole = report(bundle, file)["fidelity"]
    monkeypatch.setattr(groups, "GROUP_TOKENS", 1)
    single = report(bundle, file)["fidelity"]
    assert flat(single) == pytest.approx(flat(whole), rel=1e-5)
    monkeypatch.setattr(groups, "TRACED", 1)
    packed = tmp_path / "bundle.zip"
    names = [path.name for path in bundle.path.iterdir() if path.name != MANIFEST]
    write_archive(bundle.path, [MANIFEST, *names], packed)
    found = evaluate(packed, file, "--against", checkpoint(bundle), "--json")
    assert found.exit_code == 0, found.output
    fewer = json.loads(found.stdout)["fidelity"]
    assert fewer["layers"]["questions"] == 1
    assert flat(fewer["logits"]) == pytest.approx(flat(whole["logits"]), rel=1e-5)
    assert flat(fewer["layers"]) != pytest.approx(flat(whole["layers"]), rel=1e-5)
    after = {path.name: path.stat().st_mtime_ns for path in bundle.path.iterdir()}
    assert after == before, "nothing is written into a bundle"


def flat(section: Any, path: str = "") -> dict[str, float]:
    """The numbers of nested dictionaries and lists by their paths."""
    items: Iterator[tuple[Any, Any]] = iter(section.items() if isinstance(section, dict) else enumerate(section))
    found: dict[str, float] = {}
    for name, value in items:
        below = f"{path}/{name}"
        found |= flat(value, below) if isinstance(value, dict | list) else {below: value}
    return found


# --- Texts and models without eyes ------------------------------------------------------------------------------------


def test_a_text_is_cut_into_windows_of_which_all_but_the_first_token_is_scored(tmp_path: Path) -> None:
    bundle = exported("int4-g32", vision=False)
    path = tmp_path / "some.txt"
    path.write_text("\ufeff" + TEXT, encoding="utf-8")
    windows = [TEXT.encode()[first : first + KV_LENGTH] for first in range(0, len(TEXT), KV_LENGTH)]
    content = report(bundle, path)
    assert [item["tokens"] for item in content["by_question"]] == [len(window) - 1 for window in windows]
    assert content["data"] == {
        "source": "text",
        "file": "some.txt",
        "sha256": content["data"]["sha256"],
        "window": "192",
    }
    tokenizer, losses = Tokenizer.from_file(str(bundle.path / "tokenizer.json")), []
    for window in windows:
        token_ids = tokenizer.encode(window.decode()).ids
        logits = whole_logits(bundle.model, token_ids, None, None)
        losses.append(F.cross_entropy(logits[:-1].double(), torch.tensor(token_ids[1:]), reduction="none"))
    logits = content["fidelity"]["logits"]
    assert logits["perplexity_original"] == pytest.approx(float(torch.cat(losses).mean().exp()), rel=1e-4)
    assert logits["kl_mean"]["value"] > 1e-5
    assert content["fidelity"]["image_tokens"] is content["fidelity"]["layers"]["vision"] is None
    assert all(layer["text"] == layer["all"] > 0 for layer in content["fidelity"]["layers"]["decoder"])
    bounded = report(bundle, path, "--questions", "2")
    assert [item["question"] for item in bounded["by_question"]] == ["window 1", "window 2"]
    shown = evaluate(bundle.path, path, "--against", checkpoint(bundle)).stdout
    assert f"beside its checkpoint: {len(windows)} windows of some.txt\n" in shown
    assert "image" not in shown


def test_the_answers_end_as_the_chat_layout_ends_them(tmp_path: Path) -> None:
    """The tokens of an answer, its end token, and nothing that the layout puts behind it."""
    bundle = exported("fp32", vision=False)
    manifest = open_bundle(bundle.path).manifest
    path = tmp_path / "one.jsonl"
    path.write_text('{"question": "Say <|end|>", "answer": " <|end|> "}\n', encoding="utf-8")
    assert manifest.chat is not None
    assistant = manifest.chat.roles["assistant"]
    text = Tokenizer.from_file(str(bundle.path / "tokenizer.json"))
    text.encode_special_tokens = True
    layouts = [
        (assistant, [*text.encode(" <|end|> ").ids, END]),
        (assistant.model_copy(update={"suffix": "<|end|>\n", "strip": True}), [*text.encode("<|end|>").ids, END]),
        (assistant.model_copy(update={"suffix": "\n"}), text.encode(" <|end|> \n").ids),
        (assistant.model_copy(update={"suffix": ""}), [*text.encode(" <|end|> ").ids, END]),
        (None, [*text.encode(" <|end|> ").ids, END]),
    ]
    for number, (role, wanted) in enumerate(layouts):
        copy = tmp_path / f"bundle-{number}"
        shutil.copytree(bundle.path, copy)
        roles = {**manifest.chat.roles, "assistant": role}
        chat = None if role is None else manifest.chat.model_copy(update={"roles": roles})
        (copy / MANIFEST).write_text(manifest.model_copy(update={"chat": chat}).model_dump_json(), encoding="utf-8")
        with load(copy, threads=1) as vlm:
            (item,) = open_teacher_forced(str(path), None, vlm, open_bundle(copy)).items
            assert item.targets.tolist() == wanted
            assert item.token_ids[: item.first_scored + 1].tolist() == vlm.tokenize("Say <|end|>").tolist()


# --- What people see --------------------------------------------------------------------------------------------------


def test_the_tables_the_file_and_the_picture(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    bundle = exported("int4-g32")
    saved, picture = tmp_path / "report.json", tmp_path / "layers.png"
    found = evaluate(bundle.path, file, "--against", checkpoint(bundle), "--save", saved, "--plot", picture)
    assert found.exit_code == 0, found.output
    assert found.stderr == "fidelity ...\n"
    content = json.loads(saved.read_text(encoding="utf-8"))
    logits, layers = content["fidelity"]["logits"], content["fidelity"]["layers"]
    for text in (
        "qwen2-True, recipe int4-g32, beside its checkpoint: 3 questions of questions.jsonl\n",
        f"{logits['kl_mean']['value']:.3g}",
        f"{logits['perplexity_ratio']['low']:.4f} to {logits['perplexity_ratio']['high']:.4f}",
        f"{content['fidelity']['image_tokens']['cosine_mean']:.5f}",
        f"{layers['decoder'][1]['text']:.2%}",
        f"{layers['vision'][0]['all']:.2%}",
        "logits at 18 tokens; layers on 3 questions of questions.jsonl\n",
    ):
        assert text in found.stdout
    assert content["against"]["path"] == str(checkpoint(bundle))
    assert content["against"]["revision"] == content["bundle"]["revision"]
    assert {"torch", "onnxruntime"} <= content["versions"].keys()
    with Image.open(picture) as drawn:
        assert (drawn.format, drawn.width > drawn.height) == ("PNG", True)
        colors = {tuple(color) for color in np.asarray(drawn.convert("RGB")).reshape(-1, 3).tolist()}
    assert {tuple(bytes.fromhex(color[1:])) for color in (layer_plot.BLUE, layer_plot.ORANGE)} <= colors


def test_a_gate_fails_after_the_report(file: Path, tmp_path: Path) -> None:
    bundle, saved = exported("int4-g32"), tmp_path / "report.json"
    against = ("--against", checkpoint(bundle))
    found = evaluate(bundle.path, file, *against, "--max-kl", "1e-9", "--save", saved, "--json")
    assert found.exit_code == 1
    assert json.loads(found.stdout) == json.loads(saved.read_text(encoding="utf-8"))
    kl = json.loads(found.stdout)["fidelity"]["logits"]["kl_mean"]
    assert found.stderr.splitlines() == [
        "fidelity ...",
        f"error: mean KL divergence {kl['value']:.4g} nats (95 %: {kl['low']:.4g} to {kl['high']:.4g}) "
        "is above --max-kl 1e-09",
    ]
    assert evaluate(bundle.path, file, *against, "--max-kl", "50").exit_code == 0


# --- Errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["shape", "weights"])
def test_another_checkpoint_is_refused(file: Path, tmp_path: Path, what: str) -> None:
    bundle, other = exported("int4-g32"), tmp_path / "other"
    config = tiny_config("qwen2", tie_word_embeddings=False, num_hidden_layers=3 if what == "shape" else 2)
    write_checkpoint(other, config, seed=7)
    found = evaluate(bundle.path, file, "--against", other)
    assert found.exit_code == 1
    assert found.stderr.startswith(f"error: {other} is not the checkpoint that {bundle.path} was exported from")
    assert found.stderr.count("\n") == 1


def test_errors_are_one_line_and_status_1(tmp_path: Path, file: Path) -> None:
    bundle, blind = exported("int4-g32"), exported("int4-g32", vision=False)
    contents = {"a.txt": b"a", "latin.txt": b"caf\xe9", "blank.jsonl": b"\n\n", "empty.txt": b""}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    with (tmp_path / "huge.txt").open("wb") as stream:
        stream.truncate(MAX_TEXT_BYTES + 1)
    long = {"question": "x" * (KV_LENGTH - 10), "answer": "y" * 20}
    (tmp_path / "long.jsonl").write_text(json.dumps(long), encoding="utf-8")
    calls: list[tuple[Exported, Path | str, list[str | Path], str]] = [
        (bundle, tmp_path / "none.txt", [], "none.txt: cannot be read (No such file or directory)"),
        (bundle, tmp_path / "empty.txt", [], "empty.txt: empty (0 bytes)"),
        (bundle, tmp_path / "a.txt", [], "a.txt: has fewer than two tokens"),
        (bundle, tmp_path / "latin.txt", [], "latin.txt: is not UTF-8"),
        (bundle, tmp_path / "huge.txt", [], "huge.txt: more than the"),
        (bundle, tmp_path / "blank.jsonl", [], "blank.jsonl: has no questions"),
        (bundle, tmp_path / "long.jsonl", [], "long.jsonl, line 1: the question with its answer has"),
        (bundle, "questions.csv", [], "Possible is: generated:SEED"),
        (bundle, "questions.csv", [], "FILE.txt (plain text)"),
        (bundle, file, ["--save", tmp_path], "is not a regular file, which could be replaced"),
        (bundle, file, ["--plot", tmp_path / "none" / "a.png"], "its directory does not exist"),
        (blind, file, [], "questions.jsonl, line 1: qwen2-False takes text only"),
    ]
    for side, data, options, message in calls:
        found = evaluate(side.path, data, "--against", checkpoint(side), *options)
        assert found.exit_code == 1, found.output
        assert found.stderr.splitlines()[-1].startswith("error: ")
        assert message in found.stderr
        assert found.stdout == ""
        assert "Traceback" not in found.output
    found = evaluate(bundle.path, file, "--against", tmp_path / "nowhere")
    assert found.stderr == f"error: {tmp_path / 'nowhere'} is not a checkpoint: no such directory\n"


def test_without_matplotlib_the_line_says_so(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    bundle = exported("int4-g32")
    found = evaluate(bundle.path, file, "--against", checkpoint(bundle), "--plot", tmp_path / "a.png")
    assert (found.exit_code, found.stderr) == (1, "error: --plot needs matplotlib: pip install 'pocketvlm[plots]'\n")


def test_graphs_without_named_layers_are_refused() -> None:
    graph = (exported("int4-g32").path / "text_decoder.onnx").read_bytes()
    with pytest.raises(BundleError, match=r"a\.onnx has no value layers\.9\.input"):
        with_outputs(graph, ["layers.1.input", "layers.9.input"], "a.onnx")
    with pytest.raises(BundleError, match=r"a\.onnx is not an ONNX graph"):
        with_outputs(b"\xff\xff", [], "a.onnx")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--against", "x", "--min-accuracy", "0.5"], "--min-accuracy is about answers"),
        (["--against", "x", "--baseline", "b.json"], "--baseline is about answers"),
        (["--against", "x", "--wrong", "3"], "--wrong is about answers"),
        (["--against", "x", "--metric", "anls"], "--metric is about answers"),
        (["--against", "x", "--max-new-tokens", "3"], "--max-new-tokens is about answers"),
        (["--max-kl", "0.1"], "--max-kl is about the comparison with a checkpoint: give --against"),
        (["--plot", "a.png"], "--plot is about the comparison with a checkpoint: give --against"),
        (["--against", "x", "--max-kl", "nan"], "is not a finite number"),
        (["--against", "x", "--max-kl", "-1"], "is not in the range"),
    ],
)
def test_usage_errors_are_status_2(options: list[str], message: str) -> None:
    found = evaluate("bundle", "generated:a", *options)
    assert found.exit_code == 2, found.output
    assert message in " ".join(found.stderr.split())


def test_a_tied_head_and_scaled_embeddings_are_compared_too(tmp_path: Path) -> None:
    """MiniCPM's factors are folded into the bundle's weights, and a tied head reads the embedding table."""
    data = tmp_path / "text.txt"
    data.write_text(TEXT[:100], encoding="utf-8")
    for family in ("minicpm", "llama"):
        source = tmp_path / family
        write_checkpoint(source, tiny_config(family, vision=False, tie_word_embeddings=True))
        bundle = export_bundle(source, tmp_path / f"{family}-fp32", recipe="fp32", max_length=128).location
        found = evaluate(bundle, data, "--against", source, "--json")
        assert found.exit_code == 0, found.output
        logits = json.loads(found.stdout)["fidelity"]["logits"]
        assert logits["kl_max"] < 1e-6
        assert logits["top1_agreement"] == 1


def test_the_page_says_what_is_printed() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "evaluate.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```\n(reader, recipe int4-g128, beside its checkpoint: .*?)```", page, re.DOTALL)
    for text in ("KL divergence, nats: mean", "same most likely token", "bundle / original", "cosine: mean"):
        assert text in shown
    assert all(f"`{option}" in page or f"{option} " in page for option in ("--against", "--max-kl", "--plot"))
