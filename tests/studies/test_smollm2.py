"""The study of quantizers on SmolLM2: changes that leave logits alone, files that are read right, scores.

What needs llama.cpp or its file format runs where the study's own packages are installed (studies/smollm2/README.md);
nothing else of the project uses them.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tokenizers import pre_tokenizers

from pocketvlm.bundle.open import open_bundle
from pocketvlm.models.operators import rotate
from pocketvlm.models.rope import rope_tables
from studies.smollm2 import (
    activations,
    gguf_files,
    llama_engine,
    onnx_graphs,
    peers,
    reference,
    report,
    scores,
    study,
    text,
)
from tests.support.checkpoints import random_model, tiny_config

NEEDS = "only this study needs it: see studies/smollm2/README.md"
SHAPE = gguf_files.Shape(
    vocab_size=320,
    hidden_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=192,
    max_position_embeddings=512,
    rms_norm_eps=1e-5,
    rope_theta=10000.0,
)
TEXTS = ("Hello  world, it's 1234 tests.\n\n\tEnd", "Äöü 東京 ½ ٣ 🙂 naïve", "<|end|>a \r\n b<|begin|>")


def weights_of(shape: gguf_files.Shape, *, tied: bool) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """config.json and random weights; the norms are random as well."""
    config = {**reference.config_of(shape), "tie_word_embeddings": tied}
    values = {name: value for name, value in asdict(shape).items() if name != "vocab_size"}
    model = random_model(
        tiny_config("llama", vision=False, **values, head_dim=shape.head_dim, tie_word_embeddings=tied)
    )
    return config, {name: value.detach().numpy().copy() for name, value in model.named_parameters()}


def relative_error(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


IDS = np.random.default_rng(0).integers(0, SHAPE.vocab_size, 48)


# --- The reference ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_folding_untying_and_turning_leave_the_logits_alone(tied: bool) -> None:
    config, weights = weights_of(SHAPE, tied=tied)
    turned = reference.rotated(reference.folded(weights), reference.rotation(SHAPE.hidden_size, seed=1))
    wanted = reference.torch_logits(config, weights)(IDS)
    found = reference.torch_logits({**config, "tie_word_embeddings": False}, turned)(IDS)
    assert relative_error(found, wanted) < 1e-5
    assert np.abs(wanted).max() > 0.1
    for name, weight in turned.items():
        assert weight.dtype == np.float32
        if weight.ndim == 1:
            np.testing.assert_array_equal(weight, 1)
        else:
            assert relative_error(weight, weights.get(name, weights["model.embed_tokens.weight"])) > 0.5, name


def test_a_rotation_is_orthogonal_and_the_same_each_time() -> None:
    turn = reference.rotation(96, seed=0)
    np.testing.assert_allclose(turn @ turn.T, np.eye(96), atol=1e-12)
    np.testing.assert_array_equal(turn, reference.rotation(96, seed=0))
    assert not np.allclose(turn, reference.rotation(96, seed=1))


# --- llama.cpp's order of rows ----------------------------------------------------------------------------------------


def test_rows_of_q_and_k_go_there_and_back() -> None:
    weight = np.random.default_rng(0).standard_normal((3 * 16, 5)).astype(np.float32)
    there = gguf_files.interleave(weight, heads=3)
    assert not np.array_equal(there, weight)
    np.testing.assert_array_equal(gguf_files.deinterleave(there, heads=3), weight)
    # the first head: halves (0, 8), (1, 9), ... become neighbours
    np.testing.assert_array_equal(there[:16], weight[np.arange(16).reshape(2, 8).T.ravel()])


def test_neighbouring_pairs_turn_as_the_halves_do() -> None:
    config = tiny_config("llama", vision=False).text
    heads, size = config.num_attention_heads, config.head_dim
    states = torch.randn(heads * size, 7, generator=torch.Generator().manual_seed(0))  # rows of q times 7 inputs
    cos, sin = rope_tables(config, torch.arange(7))
    # [heads * size, 7] -> [1, heads, 7, size]
    halves = rotate(states.view(heads, size, 7).transpose(1, 2)[None], cos, sin)[0].transpose(1, 2).reshape(-1, 7)
    pairs = torch.from_numpy(gguf_files.interleave(states.numpy(), heads)).view(heads, size // 2, 2, 7)
    first, second = pairs[:, :, 0], pairs[:, :, 1]  # each [heads, size / 2, 7]
    turned = torch.stack([first * cos.T - second * sin.T, second * cos.T + first * sin.T], dim=2).reshape(-1, 7)
    torch.testing.assert_close(turned, torch.from_numpy(gguf_files.interleave(halves.numpy(), heads)))


def test_names_go_there_and_back() -> None:
    _, weights = weights_of(SHAPE, tied=False)
    assert [gguf_files.hugging_face_name(gguf_files.gguf_name(name)) for name in weights] == list(weights)


# --- Text -------------------------------------------------------------------------------------------------------------


def test_the_test_text_and_the_calibration_text_have_no_paragraph_in_common() -> None:
    texts = text.python_texts()
    test, calibration = (
        {" ".join(paragraph.split()) for paragraph in part.split("\n\n")} for part in (texts.test, texts.calibration)
    )
    assert not test & calibration
    assert min(len(texts.test), len(texts.calibration)) > 100_000


def test_paragraphs_that_stand_twice_count_once_and_for_the_test() -> None:
    topics = {f"topic {number}": f"shared\n  words\n\nonly {number}" for number in range(30)}
    texts = text.split(topics)
    assert texts.test.split() == ["shared", "words", *texts.test.split()[2:]]
    assert "shared" not in texts.calibration
    assert texts.test.count("only") + texts.calibration.count("only") == 30
    assert texts.calibration.count("only") > texts.test.count("only") > 0


class Characters:
    """A tokenizer whose tokens are numbers of characters."""

    def encode(self, content: str, add_special_tokens: bool) -> Any:
        assert not add_special_tokens
        return type("Encoding", (), {"ids": [ord(letter) for letter in content]})


def test_windows_do_not_overlap_and_spread_over_the_text() -> None:
    content = "".join(map(chr, range(100, 145)))
    found = text.windows(Characters(), content, 2, 10)
    np.testing.assert_array_equal(found, [range(100, 110), range(120, 130)])
    with pytest.raises(ValueError, match="has 4 windows of 10 tokens, not 5"):
        text.windows(Characters(), content, 5, 10)


# --- Scores -----------------------------------------------------------------------------------------------------------


def test_scores_are_those_of_pytorch() -> None:
    generator = np.random.default_rng(0)
    windows = generator.integers(0, 50, (2, 140))
    wanted = (generator.standard_normal((2, 140, 50)) * 3).astype(np.float32)
    found = (wanted + generator.standard_normal(wanted.shape) * 0.3).astype(np.float32)
    result = scores.score(found, wanted, windows)
    found_log, wanted_log = (torch.from_numpy(array[:, :-1]).double().log_softmax(-1) for array in (found, wanted))
    kl = torch.nn.functional.kl_div(found_log, wanted_log, reduction="none", log_target=True).sum(-1)
    np.testing.assert_allclose(result.kl, kl.numpy(), rtol=1e-9)
    following = torch.from_numpy(windows[:, 1:])
    surprise = -found_log.gather(-1, following[..., None])[..., 0]
    summary = scores.summary(result)
    assert summary["perplexity"] == pytest.approx(surprise.mean().exp().item())
    assert summary["top1_agreement"] == np.mean(found[:, :-1].argmax(-1) == wanted[:, :-1].argmax(-1))
    assert summary["kl"]["low"] <= summary["kl"]["mean"] <= summary["kl"]["high"]
    assert summary["kl"]["median"] < summary["kl"]["p99.9"]
    same = scores.summary(scores.score(wanted, wanted, windows))
    assert (same["kl"]["mean"], same["top1_agreement"]) == (0, 1)


def test_bits_count_what_is_stored() -> None:
    weights = {"model.layers.0.mlp.up_proj.weight": 64, "model.layers.0.norm.weight": 8, "lm_head.weight": 64}
    weights["model.embed_tokens.weight"] = 64
    stored = dict(zip(weights, (36, 32, 68, 256), strict=True))
    found = scores.bits_per_weight(stored, weights)
    assert found == {"decoder": 4.5, "head": 8.5, "table": 32, "all": 8 * (36 + 32 + 68 + 256) / 200}
    with pytest.raises(ValueError, match=r"lm_head\.weight"):
        scores.bits_per_weight({name: stored[name] for name in weights if name != "lm_head.weight"}, weights)


@pytest.mark.parametrize("recipe", ["fp32", "int4-g32", "bluelm-v-3b"])
def test_bytes_in_a_bundles_graphs_are_what_the_manifest_says(tiny_bundles: dict[str, Path], recipe: str) -> None:
    bundle = tiny_bundles[recipe]
    tensors = {
        name: tensor
        for name, tensor in open_bundle(bundle).manifest.recipe.tensors.items()
        if name.startswith(("model.", "lm_head"))
    }
    stored = {
        **onnx_graphs.stored_bytes(bundle / "token_embedding.onnx", tensors),
        **onnx_graphs.stored_bytes(bundle / "text_decoder.onnx", tensors),
    }
    assert stored.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert stored[name] * 8 / tensor.weights == pytest.approx(tensor.bits_per_weight, abs=1e-4), name


def test_pairs_are_of_systems_that_are_no_larger() -> None:
    def result(family: str, bits: float, kl: list[float]) -> dict[str, Any]:
        part = {"kl_by_window": kl}
        return {"family": family, "bits": {"all": bits}, "shipped": part, "weights_alone": part}

    found = report.pairs(
        {
            "mine": result("pocketvlm", 5.0, [0.1, 0.3]),
            "mine in float": result("pocketvlm", 32.0, [0.0, 0.0]),
            "smaller": result("llama.cpp", 4.5, [0.2, 0.3]),
            "larger": result("llama.cpp", 5.5, [0.3, 0.4]),
        }
    )
    assert [(pair["this"], pair["other"]) for pair in found] == [("mine", "larger")]
    assert found[0]["shipped"]["difference"] == pytest.approx(-0.15)
    assert found[0]["shipped"]["low"] == pytest.approx(-0.2)


# --- With the study's packages ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float32 GGUF of random weights with a byte-level tokenizer, the head tied."""
    gguf = pytest.importorskip("gguf", reason=NEEDS)
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(path, gguf_files.ARCHITECTURE)
    writer.add_vocab_size(SHAPE.vocab_size)
    writer.add_context_length(SHAPE.max_position_embeddings)
    writer.add_embedding_length(SHAPE.hidden_size)
    writer.add_block_count(SHAPE.num_hidden_layers)
    writer.add_feed_forward_length(SHAPE.intermediate_size)
    writer.add_head_count(SHAPE.num_attention_heads)
    writer.add_head_count_kv(SHAPE.num_key_value_heads)
    writer.add_layer_norm_rms_eps(SHAPE.rms_norm_eps)
    writer.add_rope_freq_base(SHAPE.rope_theta)
    writer.add_rope_dimension_count(SHAPE.head_dim)
    special = ["<|end|>", "<|begin|>"]
    plain = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "he", "ll", "hell", "Ġw", "12"]
    filler = [f"<unused {number}>" for number in range(SHAPE.vocab_size - len(special) - len(plain))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([*special, *plain, *filler])
    writer.add_token_types([3] * len(special) + [1] * (len(plain) + len(filler)))
    writer.add_token_merges(["h e", "l l", "he ll", "Ġ w", "1 2"])
    for add, number in ((writer.add_bos_token_id, 1), (writer.add_eos_token_id, 0), (writer.add_unk_token_id, 0)):
        add(number)
    writer.add_add_bos_token(False)
    _, weights = weights_of(SHAPE, tied=True)
    for name, weight in weights.items():
        heads = SHAPE.heads_of(name)
        writer.add_tensor(gguf_files.gguf_name(name), weight if heads is None else gguf_files.interleave(weight, heads))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def prepared(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The checkpoint made of the tiny GGUF, and that checkpoint as a float32 GGUF."""
    cache = tmp_path_factory.mktemp("prepared")
    checkpoint = reference.prepare(cache, tiny_gguf)
    path = cache / "float.gguf"
    _, weights = reference.read_checkpoint(checkpoint)
    gguf_files.write_weights(path, gguf_files.open_gguf(tiny_gguf), SHAPE, weights)
    return checkpoint, path


def test_a_gguf_gives_back_what_was_written(tiny_gguf: Path, prepared: tuple[Path, Path]) -> None:
    checkpoint, path = prepared
    config, weights = reference.read_checkpoint(checkpoint)
    reader = gguf_files.open_gguf(path)
    assert gguf_files.shape_of(reader) == gguf_files.shape_of(gguf_files.open_gguf(tiny_gguf)) == SHAPE
    read = gguf_files.read_weights(reader)
    assert read.keys() == weights.keys()
    for name, weight in weights.items():
        np.testing.assert_array_equal(read[name], weight)
    assert gguf_files.bytes_by_weight(reader) == {name: weight.nbytes for name, weight in weights.items()}
    packaged, tied = weights_of(SHAPE, tied=True)
    wanted = reference.torch_logits(packaged, tied)(IDS)
    assert relative_error(reference.torch_logits(config, read)(IDS), wanted) < 1e-5


def test_llama_cpp_reads_text_and_weights_as_we_do(prepared: tuple[Path, Path]) -> None:
    llama = pytest.importorskip("llama_cpp", reason=NEEDS)
    from tokenizers import Tokenizer

    checkpoint, path = prepared
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    model = llama.Llama(str(path), vocab_only=True, verbose=False)
    for content in TEXTS:
        wanted = model.tokenize(content.encode(), add_bos=False, special=True)
        assert tokenizer.encode(content, add_special_tokens=False).ids == wanted
        assert tokenizer.decode(wanted, skip_special_tokens=False) == content
    model.close()
    with llama_engine.run_llama(path, 64) as logits:
        found = logits(IDS)
        np.testing.assert_array_equal(logits(IDS), found)  # nothing of the first call remains
    assert relative_error(found, reference.torch_logits(*reference.read_checkpoint(checkpoint))(IDS)) < 1e-3


def test_llama_cpp_quantizes_and_bits_are_counted(prepared: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason=NEEDS)
    checkpoint, path = prepared
    config, weights = reference.read_checkpoint(checkpoint)
    grams = tmp_path / "grams.safetensors"
    activations.collect(config, weights, IDS[None], grams)
    quantizer = peers.LlamaQuantizer("Q4_0", importance=True, head="Q4_0", table="Q8_0")
    peers.quantize_gguf(path, tmp_path / "q.gguf", quantizer, grams)
    built = peers.read_llama(tmp_path / "q.gguf", path, 64)
    bits = scores.bits_per_weight(built.stored, {name: weight.size for name, weight in weights.items()})
    assert (bits["head"], bits["table"]) == (4.5, 8.5)
    assert 4.5 <= bits["decoder"] < 5.5
    assert built.notes["head"] == "Q4_0"
    assert built.weights_alone is not None
    with built.shipped() as logits, built.weights_alone() as alone:
        assert 0 < relative_error(logits(IDS), alone(IDS)) < 0.2


def test_the_whole_study_on_a_tiny_model(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("llama_cpp", reason=NEEDS)
    monkeypatch.setattr(reference, "packaged_gguf", lambda: tiny_gguf)
    monkeypatch.setattr(study, "CALIBRATION_WINDOWS", 4)
    chosen = ("pocketvlm fp32", "pocketvlm int4-g32", "llama.cpp F32", "llama.cpp Q4_0", "ONNX Runtime default g32")
    output = tmp_path / "report.json"
    arguments = ["--windows", "2", "--tokens", "256", "--cache", str(tmp_path / "cache"), "--output", str(output)]
    arguments += [f"--only={label}" for label in chosen]
    first = CliRunner().invoke(study.main, arguments, catch_exceptions=False)
    assert first.exit_code == 0
    made = json.loads(output.read_text())
    assert list(made["systems"]) == list(chosen)
    assert output.with_suffix(".png").is_file()
    kl = {label: result["shipped"]["kl"]["mean"] for label, result in made["systems"].items()}
    assert max(kl["pocketvlm fp32"], kl["llama.cpp F32"]) < 1e-6 < min(kl["pocketvlm int4-g32"], kl["llama.cpp Q4_0"])
    assert made["systems"]["pocketvlm int4-g32"]["bits"]["decoder"] == pytest.approx(5, abs=0.3)
    assert made["reference"]["kl to the packaged model"] < 1e-6
    capfd.readouterr()
    second = CliRunner().invoke(study.main, arguments, catch_exceptions=False)
    assert second.exit_code == 0
    assert "measuring" not in second.stderr
    assert json.loads(output.read_text())["systems"] == made["systems"]
