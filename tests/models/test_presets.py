"""Presets: shapes and sizes of the models they name, and weights that are streamed, random and always the same."""

from __future__ import annotations

import hashlib
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from pocketvlm.errors import CheckpointError
from pocketvlm.export.read.frontend import read_frontend
from pocketvlm.models.bluelm_v import BluelmV
from pocketvlm.models.checkpoint import load, open_checkpoint
from pocketvlm.models.config import VlmConfig
from pocketvlm.models.families import FAMILIES
from pocketvlm.models.names import EMBEDDING_TABLE, HEAD, IMAGE_ROW
from pocketvlm.models.presets import PRESETS, find_preset, gemma, internvl, lfm2, llava, minicpm, qwen_vl
from pocketvlm.models.presets.frontend import write_frontend
from pocketvlm.models.presets.smolvlm import spoken
from pocketvlm.models.presets.spoken import Spoken
from pocketvlm.models.presets.weights import BLOCK, LOGITS_SPREAD, draw, in_files, spread, weight_bytes, write_weights
from pocketvlm.models.presets.write import is_preset, size_of, write_preset
from pocketvlm.models.shapes import expected_shapes, is_unused, stored_shapes
from tests.support.minicpmv import Model as MiniCpmV

TINY = PRESETS["tiny"]
#: Those that nobody published.
OURS = ("bluelm-v-0.5b", "bluelm-v-3b", "two-layers", "tiny")
#: SHA-256 of the tiny preset's weights for seed 0: what is drawn stays as it is on every machine.
TINY_SHA256 = "a18a6e934f391f8c6c3d5fd5fc5c080dd5a9038a288a27afec687e8666760cc0"
#: Parameters of SigLIP so400m without its pooling head: patches, positions, 27 layers, and a norm.
SO400M = (3 * 14**2 + 1 + 27**2) * 1152 + 2 * 1152
SO400M += 27 * (4 * (1152**2 + 1152) + (1152 + 1) * 4304 + (4304 + 1) * 1152 + 4 * 1152)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny preset's checkpoint. Read only."""
    directory = tmp_path_factory.mktemp("preset")
    write_preset(TINY, directory)
    return directory


# --- What the presets are ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "tower", "decoder", "tables"),
    [
        # 40 layers of 4 h^2 + 3 h f + 2 h, and a norm; embeddings and head apart
        ("bluelm-v-3b", SO400M, 40 * (4 * 2304**2 + 3 * 2304 * 5760 + 2 * 2304) + 2304, 2 * 122753 * 2304),
        # Qwen2-0.5B: 494.0 M with one table of embeddings
        ("bluelm-v-0.5b", SO400M, 494_032_768 - 151936 * 896, 151936 * 896),
    ],
)
def test_a_preset_has_the_parameters_of_its_parts(name: str, tower: int, decoder: int, tables: int) -> None:
    config = PRESETS[name].config
    shapes = expected_shapes(config)
    counts = {name: math.prod(shape) for name, shape in shapes.items()}
    assert sum(count for name, count in counts.items() if name.startswith("vision_tower.")) == tower
    assert sum(count for name, count in counts.items() if name.startswith(("model.layers.", "model.norm."))) == decoder
    assert sum(counts.get(name, 0) for name in ("model.embed_tokens.weight", "lm_head.weight")) == tables
    between = 4 * 1152**2 + 1152 + 1152 * config.text.hidden_size + config.text.hidden_size**2
    between += 2 * config.text.hidden_size
    total = tower + decoder + tables + between
    assert size_of(PRESETS[name]).parameters == total == sum(counts.values())
    assert round(total / 1e6) == {"bluelm-v-3b": 3434, "bluelm-v-0.5b": 914}[name]


@pytest.mark.parametrize("name", ["bluelm-v-0.5b", "bluelm-v-3b", "tiny"])
def test_a_preset_is_what_the_paper_asks_for(name: str) -> None:
    config = PRESETS[name].config
    assert VlmConfig.from_dict(config.to_dict()) == config
    assert config.text.max_position_embeddings >= 4096
    assert (2, 4) in config.tiling.candidates
    if name != "tiny":
        assert config.tokens_per_tile == 196
        most = max(across * down for across, down in config.tiling.candidates)
        assert (most + 1) * config.tokens_per_tile == 1764


#: Parameters in millions of models that were published, without layers that nothing takes, tokens of a tile, grids.
PUBLISHED = {
    "smolvlm-256m": (256, 64, 7),
    "smolvlm-500m": (507, 64, 7),
    "smolvlm2-2.2b": (2247, 81, 7),
    "internvl3-1b": (938, 256, 35),
    "llava-onevision-0.5b": (894, 729, 36),
    "llava-next-7b": (7554, 576, 5),
    "qwen3-vl-2b": (2127, 1, 1),
    "qwen2.5-vl-3b": (3754, 1, 1),
    "fastvlm-0.5b": (757, 256, 1),
    "gemma-3-4b": (4300, 256, 1),
    "paligemma-3b": (2923, 256, 1),
    "paligemma2-3b": (3032, 256, 1),
    "gemma-4-e2b": (4797, 1, 1),
    "lfm2-350m": (354, 0, 9),
    "lfm2.5-vl-450m": (449, 1, 26),
    "qwen3.5-0.8b": (852, 1, 1),
    "minicpm-v-4.5": (8679, 1, 23),
    "minicpm-v-4.6": (1301, 1, 23),
}


def test_each_published_preset_is_held_to_its_size() -> None:
    assert PUBLISHED.keys() == PRESETS.keys() - OURS


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_has_the_shape_and_the_names_of_the_published_model(name: str) -> None:
    """Transformers' own class of it, without memory."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    preset = PRESETS[name]
    assert preset.published is not None
    of_kind = AutoModelForCausalLM if preset.config.vision is None else AutoModelForImageTextToText
    with torch.device("meta"):
        if preset.config.model_type == "minicpmv":  # of which transformers has no class
            model = MiniCpmV(preset.published, preset.config.text.model_type)
        else:
            model = of_kind.from_config(AutoConfig.for_model(**preset.published))
    # (a preset's convolutions have taken in the batch norm behind them)
    wanted = {
        key.replace(".conv.bn.bias", ".conv.conv.bias"): tuple(weight.shape)
        for key, weight in model.named_parameters()
        if not key.endswith(".bn.weight")
    }
    if preset.config.model_type == "gemma4":  # whose numbers of a layer and of a matrix are buffers
        ends = ("layer_scalar", "_min", "_max")
        wanted |= {key: tuple(one.shape) for key, one in model.state_dict().items() if key.endswith(ends)}
    shapes, rename = stored_shapes(preset.config), FAMILIES[preset.config.model_type].rename
    # (of a tower whose last layers nothing takes a preset has not what nothing runs)
    run = {key: shape for key, shape in wanted.items() if not is_unused(rename(key) or "", preset.config)}
    placed = in_files(shapes, preset.stored)
    assert dict(placed.values()) == run
    # (one that has others in it is called otherwise until it is cut)
    once = {key: re.sub(r"encoder\.layers\.\d+\.merger\.", "vit_merger.", key) for key in placed}
    cut = {key: (once[key], key.replace(".q_proj.", ".qkv."), key.replace(".k_proj.", ".in_proj.")) for key in placed}
    assert all(rename(name) in cut[key] for key, (name, _) in placed.items())
    within = shapes.keys() - placed.keys()
    inner = [key for key in within if ".output_gate." not in key and key != IMAGE_ROW]
    seeing = ("vision_tower.", "projector.")
    assert all(key.startswith(seeing) and (".k_proj." in key or ".v_proj." in key) for key in inner)
    grids = len(preset.config.tiling.candidates)
    assert (round(size_of(preset).parameters / 1e6), preset.config.tokens_per_tile, grids) == PUBLISHED[name]


def test_lfm2_5_vl_has_the_names_and_shapes_of_its_published_files() -> None:
    """By the SHA-256 that a public reader of their headers has of them, sorted: bfloat16, under its first names."""
    preset = PRESETS["lfm2.5-vl-450m"]
    placed = in_files(expected_shapes(preset.config), preset.stored).values()
    first = {name.replace("vision_tower.", "vision_tower.vision_model.", 1): shape for name, shape in placed}
    lines = (f"{name}\tBF16\t{','.join(map(str, first[name]))}\n" for name in sorted(first))
    found = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert found == "08f544b4495804ed842a37acf0936544ec88aa5d947bef8304a47816fee5b1a7"
    assert all(FAMILIES["lfm2_vl"].rename(name) in expected_shapes(preset.config) for name in first)


def test_minicpm_v_4_5_is_as_large_as_its_published_files() -> None:
    """By the bytes that a public copy of its list of weights has."""
    assert size_of(PRESETS["minicpm-v-4.5"]).weight_bytes == 17_391_790_560


def test_minicpm_v_4_6_has_as_many_vision_weights_as_its_published_file() -> None:
    """Of the vision part that was made of it for another engine, whose projector merges as well."""
    placed = in_files(expected_shapes(PRESETS["minicpm-v-4.6"].config), PRESETS["minicpm-v-4.6"].stored).values()
    assert sum(name.startswith(("model.vision_tower.", "model.merger.")) for name, _ in placed) == 459


def test_a_small_one_without_pictures_is_written_read_and_loaded_by_transformers(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    preset = PRESETS["lfm2-350m"]
    raw = {**(preset.published or {}), "hidden_size": 64, "num_hidden_layers": 3, "full_attn_idxs": [1],
           "num_attention_heads": 2, "num_key_value_heads": 1, "block_ff_dim": 96, "vocab_size": 400}  # fmt: skip
    write_preset(replace(preset, config=VlmConfig.from_dict(raw), published=raw), tmp_path)
    chat = read_frontend(open_checkpoint(tmp_path)).chat
    assert chat is not None
    assert chat.start == "<|startoftext|>"
    _, notes = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(notes[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))


def small_llava(said: Spoken) -> Spoken:
    """With tiles of 64 pixels."""
    assert said.processor is not None
    grids = [[64, 128], [128, 64]]
    return replace(said, processor={**said.processor, "size": 64, "image_grid_pinpoints": grids})


def small_squares(said: Spoken) -> Spoken:
    """The same."""
    return replace(said, processor={**(said.processor or {}), "size": {"height": 64, "width": 64}})


@pytest.mark.parametrize(
    ("name", "said", "prefix"),
    [
        ("smolvlm-256m", spoken(64), "User:"),
        ("internvl3-1b", replace(internvl.SPOKEN, processor={**internvl.PROCESSOR, "size": 64}), None),
        ("llava-onevision-0.5b", small_llava(llava.ONEVISION), None),
        ("llava-next-7b", small_llava(llava.MISTRAL), None),
        ("qwen3-vl-2b", qwen_vl.QWEN3, None),
        ("qwen2.5-vl-3b", qwen_vl.QWEN2_5, None),
        ("lfm2.5-vl-450m", lfm2.SEEING, None),
        ("qwen3.5-0.8b", qwen_vl.QWEN3, None),
        ("minicpm-v-4.6", minicpm.SEEING_4_6, None),
        ("paligemma-3b", small_squares(gemma.PALIGEMMA), None),
        ("paligemma2-3b", small_squares(gemma.PALIGEMMA), None),
    ],
)
def test_a_small_one_is_written_read_and_loaded_by_transformers(
    tmp_path: Path, name: str, said: Spoken, prefix: str | None
) -> None:
    from transformers import AutoModelForImageTextToText

    preset = PRESETS[name]
    assert preset.published is not None
    raw = {**preset.published}
    seen: dict[str, Any] = {"num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 96, "image_size": 64}
    if "depth" in raw["vision_config"]:  # Qwen-VL's
        seen = {"depth": 2, "hidden_size": 64, "intermediate_size": 96, "num_heads": 2, "out_hidden_size": 64,
                "deepstack_visual_indexes": [0], "fullatt_block_indexes": [1]}  # fmt: skip
    else:
        seen["num_attention_heads"] = 2
    raw["vision_config"] = {**raw["vision_config"], **seen}
    if "projection_dim" in raw:
        raw["projection_dim"] = 64
    raw["text_config"] = {**raw["text_config"], "num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 96,
                          "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 400}  # fmt: skip
    if "insert_layer_id" in raw:
        raw["insert_layer_id"] = 0
    if "full_attn_idxs" in raw["text_config"]:
        raw["text_config"]["full_attn_idxs"] = [0]
    if name == "qwen3.5-0.8b":
        raw["vision_config"]["deepstack_visual_indexes"] = []
    if "mrope_section" in raw["text_config"].get("rope_scaling", {}) and "head_dim" not in raw["text_config"]:
        raw["text_config"]["rope_scaling"] = {"type": "mrope", "mrope_section": [4, 6, 6]}
    if "image_grid_pinpoints" in raw:
        raw["image_grid_pinpoints"] = [[64, 128], [128, 64]]
        raw["vision_config"]["num_hidden_layers"] = 2
    small = replace(preset, config=VlmConfig.from_dict(raw), published=raw, spoken=said)
    write_preset(small, tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    frontend = read_frontend(checkpoint)
    assert frontend.chat is not None
    assert frontend.chat.roles["user"].prefix_with_image == prefix
    model, notes = AutoModelForImageTextToText.from_pretrained(tmp_path, output_loading_info=True)
    rename = checkpoint.family.rename
    assert all(is_unused(rename(key) or "", checkpoint.config) for key in notes["missing_keys"])
    assert not notes["unexpected_keys"]
    head = HEAD if HEAD in checkpoint.tensors else EMBEDDING_TABLE
    assert torch.equal(model.lm_head.weight.bfloat16(), checkpoint.tensor(head))


def test_an_unknown_preset_is_told_the_known_ones() -> None:
    with pytest.raises(CheckpointError, match=r"'gpt-9'.*bluelm-v-3b, bluelm-v-0.5b, two-layers, smolvlm-256m"):
        find_preset("gpt-9")


# --- What is written --------------------------------------------------------------------------------------------------


def test_the_checkpoint_is_whole(tiny: Path) -> None:
    checkpoint = open_checkpoint(tiny)
    assert checkpoint.config == TINY.config
    assert checkpoint.parameters == size_of(TINY).parameters
    assert {checkpoint.tensor(name).dtype for name in checkpoint.tensors} == {torch.bfloat16}
    assert is_preset(tiny)
    size = sum(path.stat().st_size for path in tiny.iterdir())
    assert size_of(TINY).weight_bytes < size <= size_of(TINY).disk_bytes


def test_a_seed_gives_the_same_bytes_each_time(tmp_path: Path, tiny: Path) -> None:
    weights = {}
    for name, seed in (("again", 0), ("other", 1)):
        (tmp_path / name).mkdir()
        write_preset(TINY, tmp_path / name, seed=seed)
        weights[name] = load_file(tmp_path / name / "model.safetensors")
    assert {path.name for path in (tmp_path / "again").iterdir()} == {path.name for path in tiny.iterdir()}
    assert all(path.read_bytes() == (tmp_path / "again" / path.name).read_bytes() for path in tiny.iterdir())
    for name, value in weights["other"].items():
        assert torch.equal(value, weights["again"][name]) == (value.ndim == 1 and name.endswith(".weight")), name
    assert hashlib.sha256((tiny / "model.safetensors").read_bytes()).hexdigest() == TINY_SHA256


def test_shards_hold_the_same_weights(tmp_path: Path, tiny: Path) -> None:
    shapes = expected_shapes(TINY.config)
    seen: list[int] = []
    write_weights(tmp_path, shapes, TINY.config.text, seed=0, advance=seen.append, shard_bytes=300_000)
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert [path.name for path in shards] == [
        f"model-{at:05d}-of-{len(shards):05d}.safetensors" for at in range(1, len(shards) + 1)
    ]
    assert len(shards) > 3
    assert sum(seen) == weight_bytes(shapes)
    (tmp_path / "config.json").write_bytes((tiny / "config.json").read_bytes())
    checkpoint, whole = open_checkpoint(tmp_path), open_checkpoint(tiny)
    assert all(torch.equal(checkpoint.tensor(name), whole.tensor(name)) for name in shapes)
    table = "model.embed_tokens.weight"
    assert all(path.stat().st_size <= 300_000 + 8192 for path in shards)
    assert checkpoint.tensors[table].file != checkpoint.tensors["model.norm.weight"].file


def test_a_tensor_larger_than_a_shard_has_its_own(tmp_path: Path) -> None:
    shapes = {"a.weight": (3,), "b.weight": (50, 40), "c.weight": (3,)}
    write_weights(tmp_path, shapes, TINY.config.text, seed=0, advance=lambda _: None, shard_bytes=1000)
    stored = [load_file(path) for path in sorted(tmp_path.glob("*.safetensors"))]
    assert [{name: tuple(value.shape) for name, value in shard.items()} for shard in stored] == [
        {name: shape} for name, shape in shapes.items()
    ]


@pytest.mark.parametrize("count", [1, 3, 4, BLOCK - 1, BLOCK, BLOCK + 5])
def test_blocks_have_no_seam(count: int) -> None:
    """A longer tensor of the same name and spread begins as the shorter one does."""
    longest = np.concatenate(list(draw("x.bias", (BLOCK + 5,), TINY.config.text, 7)))
    drawn = np.concatenate(list(draw("x.bias", (count,), TINY.config.text, 7)))
    assert len(drawn) == count
    assert np.array_equal(drawn, longest[:count])


def test_weights_are_normal() -> None:
    shape = (1000, 1024)
    bits = np.concatenate(list(draw("x.weight", shape, TINY.config.text, 0)))
    values = (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64) / spread(
        "x.weight", shape, TINY.config.text
    )
    assert abs(values.mean()) < 0.005
    assert values.std() == pytest.approx(1, abs=0.005)
    for level in (-3, -2, -1, -0.1, 0, 0.5, 1.5, 2.5, 3.5):
        assert (values < level).mean() == pytest.approx(NormalDist().cdf(level), abs=0.002)
    assert np.abs(values).max() == pytest.approx(NormalDist().inv_cdf(1 - 0.5 / 65536), rel=0.004)
    matrix = values.reshape(shape)
    assert np.abs(np.corrcoef(matrix[:50]) - np.eye(50)).max() < 0.2, "rows have nothing to do with each other"


@pytest.mark.parametrize("name", PRESETS)
def test_states_and_logits_keep_their_size(tmp_path: Path, name: str) -> None:
    """In narrower models of the presets' kinds, whose spreads follow from their widths."""
    whole = PRESETS[name].config.text
    if not whole.is_uniform:  # rows beside embeddings are of towers of their own kind
        kinds: tuple[Any, ...] = ("sliding_attention", "full_attention") * 2
        whole = replace(whole, layer_types=kinds * 9, num_kv_shared_layers=2, hidden_size_per_layer_input=0)
    text = replace(
        whole, vocab_size=2000, hidden_size=384, head_dim=64, intermediate_size=1024,
        num_attention_heads=6, num_key_value_heads=2, num_hidden_layers=4, mrope_section=None, deep_layers=0,
    )  # fmt: skip
    small = replace(TINY.config, text=text)
    write_weights(tmp_path, expected_shapes(small), text, seed=0, advance=lambda _: None)
    stored = load_file(tmp_path / "model.safetensors")
    model = load(lambda: BluelmV(small), lambda name, rows=None: stored[name])
    with torch.no_grad():
        pixels = torch.rand(2, 3, 72, 72, generator=torch.Generator().manual_seed(0))
        image = model.encode_tiles(2 * pixels - 1)
        logits = model(model.embed_tokens(torch.arange(300, 340)[None]))
    assert 0.05 < float(image.std()) < 5
    assert float(logits.std()) == pytest.approx(LOGITS_SPREAD, rel=0.25)
    assert float((logits.argmax(-1) == torch.arange(300, 340)).float().mean()) < 0.5, "not each token itself"


# --- Beside the weights -----------------------------------------------------------------------------------------------


def test_every_id_has_a_text_and_every_text_has_ids(tiny: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tiny / "tokenizer.json"))
    size = TINY.config.text.vocab_size
    assert tokenizer.get_vocab_size() == size
    assert all(tokenizer.id_to_token(number) for number in range(size))
    assert tokenizer.decode([1000, 700]) == " w1000 w700"
    for text in ("What is the total?", "äöü €\n\t 😀", " two  spaces w1000"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_a_vocabulary_without_room_for_bytes_is_refused(tmp_path: Path) -> None:
    config = replace(TINY.config, text=replace(TINY.config.text, vocab_size=200))
    with pytest.raises(CheckpointError, match="vocabulary of 200 is too small"):
        write_frontend(tmp_path, config)


# --- What can go wrong ------------------------------------------------------------------------------------------------


def test_too_little_space_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1_500_000_000})())
    with pytest.raises(CheckpointError, match=r"1,500 MB free, the checkpoint needs 6,8\d\d MB"):
        write_preset(PRESETS["bluelm-v-3b"], tmp_path)
    assert not list(tmp_path.iterdir())


def test_until_it_is_whole_it_is_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class KilledError(Exception):
        pass

    def die(*_: object) -> None:
        raise KilledError

    monkeypatch.setattr("pocketvlm.models.presets.write.write_frontend", die)
    with pytest.raises(KilledError):
        write_preset(TINY, tmp_path)
    assert list(tmp_path.glob("*.safetensors"))
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        open_checkpoint(tmp_path)
    assert not is_preset(tmp_path)


def test_a_checkpoint_that_was_changed_is_nobodys_to_replace(tmp_path: Path) -> None:
    write_preset(TINY, tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    assert not is_preset(tmp_path)
    (tmp_path / "notes.txt").unlink()
    assert is_preset(tmp_path)
    with (tmp_path / "config.json").open("a") as stream:
        stream.write(" ")
    assert not is_preset(tmp_path)
    for damaged in ("[]", "{", '{"files": 3}', '{"files": {"config.json": "x"}}'):
        (tmp_path / "preset.json").write_text(damaged)
        assert not is_preset(tmp_path)


MEASURED = """
import sys
from pathlib import Path
from pocketvlm.models.presets import MINICPM_2B
from pocketvlm.models.presets.weights import write_weights
def peak():
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
write_weights(Path(sys.argv[1]), {"small.weight": (8, 8)}, MINICPM_2B, seed=0, advance=lambda _: None)
before = peak()
write_weights(Path(sys.argv[1]), {"big.weight": (50_000, 2000)}, MINICPM_2B, seed=0, advance=lambda _: None)
print(peak() - before)
"""


def test_memory_does_not_grow_with_the_weights(repository: Path, tmp_path: Path) -> None:
    """200 MB of one tensor in a few MB of memory."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, tmp_path], cwd=repository, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "model.safetensors").stat().st_size > 200e6
    assert int(done.stdout) < 20_000, "kB"
