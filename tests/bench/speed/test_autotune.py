"""Settings found by measuring, written as a file, and used by the runtime where asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from pocketvlm.bench.speed import autotune
from pocketvlm.bench.speed.autotune import Settings, candidates, fastest_cpus, is_better, tune
from pocketvlm.bench.speed.workload import Workload
from pocketvlm.bundle.open import open_bundle
from pocketvlm.cli import main
from pocketvlm.errors import PocketVlmError
from pocketvlm.runtime import GenerationConfig, load
from pocketvlm.runtime.tuning import Tuning, read_tuning, this_device

WORKLOAD = Workload(image=(160, 90), prompts=(20,), new_tokens=2, repeats=1, warmups=0, threads=1)
OWN = Settings(threads=2, tile_batch=4, prefill_chunk=128)


def test_what_is_fastest_is_taken(tiny_bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """By planted times: one thread, 6 tiles at once and chunks of 64 are fast; without a pipeline it is slow."""

    def planted(
        bundle: object, workload: object, first: Settings, second: Settings, phase: str
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        def seconds(one: Settings) -> float:
            slow = (one.threads != 2) + (one.tile_batch != 6) + (one.prefill_chunk != 64) + (not one.pipelined)
            return 1.0 + slow

        return (seconds(first),) * 5, (seconds(second),) * 5

    monkeypatch.setattr(autotune, "in_turns", planted)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    found = tune(open_bundle(tiny_bundles["fp32"]), WORKLOAD, lambda name: None)
    tuning = found.tuning
    assert (tuning.threads, tuning.tile_batch, tuning.prefill_chunk, tuning.pipelined) == (2, 6, 64, True)
    assert found.gain == pytest.approx(4 / 1 if WORKLOAD.threads == 2 else 4.0)
    assert [trial.value for trial in found.trials if trial.taken] == ["2", "6", "64"]


def test_where_nothing_is_faster_the_bundles_own_settings_stay(
    tiny_bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autotune, "in_turns", lambda *_: ((1.0,) * 5, (0.995,) * 5))
    bundle = open_bundle(tiny_bundles["fp32"])
    found = tune(bundle, WORKLOAD, lambda name: None)
    assert bundle.manifest.vision is not None
    assert found.tuning.tile_batch == bundle.manifest.vision.tile_batch
    assert found.tuning.prefill_chunk == bundle.manifest.prefill_chunk
    assert found.gain == 1.0
    assert not any(trial.taken for trial in found.trials)


def test_a_candidate_has_to_win_nearly_every_turn() -> None:
    assert is_better([1.0] * 5, [0.9] * 5)
    assert not is_better([1.0] * 5, [0.995] * 5), "too little"
    assert not is_better([1.0] * 5, [0.5, 0.5, 0.5, 1.1, 1.1]), "too seldom"


def test_only_what_a_model_has_is_tried() -> None:
    with_image = [list(change) for _, change in candidates(OWN, with_image=True)]
    without = [list(change) for _, change in candidates(OWN, with_image=False)]
    assert ["tile_batch"] in with_image
    assert ["pipelined"] in with_image
    assert {name for change in without for name in change} <= {"threads", "affinity", "prefill_chunk"}


def test_the_fastest_cpus_are_those_of_the_highest_clock() -> None:
    clocks = {0: 2000, 1: 2000, 2: 2850, 3: 2850, 4: 3250}
    assert fastest_cpus(list(clocks), 3, clocks.__getitem__) == (2, 3, 4)
    assert fastest_cpus(list(clocks), 1, clocks.__getitem__) == (4,)
    assert fastest_cpus([0, 1, 2, 3], 2, lambda cpu: 0) == (2, 3)


def test_a_tuning_is_written_and_used(tiny_bundles: dict[str, Path], tmp_path: Path) -> None:
    bundle, saved = tiny_bundles["fp32"], tmp_path / "tuning.json"
    options = ["-p", "20", "-n", "2", "--image", "160x90", "-r", "1", "--warmups", "0", "-t", "1", "--autotune"]
    result = CliRunner().invoke(main, ["bench", str(bundle), *options, "--save", str(saved), "-o", "json"])
    assert result.exit_code == 0, result.output
    tuning = read_tuning(saved)
    assert json.loads(result.stdout)["tuning"] == json.loads(saved.read_text())
    assert tuning.device == this_device()
    config = GenerationConfig(max_new_tokens=8)
    with load(bundle, tuning=saved) as tuned, load(bundle, threads=tuning.threads) as plain:
        assert tuned.stream("hello", config=config).read() == plain.stream("hello", config=config).read()
    result = CliRunner().invoke(
        main, ["run", str(bundle), "--prompt", "hello", "--max-new-tokens", "2", "--tuning", str(saved)]
    )
    assert result.exit_code == 0, result.output


def test_a_tuning_changes_what_is_run(tiny_bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = open_bundle(tiny_bundles["fp32"])
    tuning = Tuning(
        device=this_device(), model=bundle.manifest.model.revision, threads=1, tile_batch=2, prefill_chunk=3,
        pipelined=False, affinity=(0,),
    )  # fmt: skip
    with load(tiny_bundles["fp32"], tuning=tuning) as vlm:
        assert vlm.engine_description.endswith("1 threads")
        assert vlm._decoder.prefill_chunk == 3
        assert vlm._encoder is not None
        assert (vlm._encoder._tile_batch, vlm._encoder._pipelined) == (2, False)
    with load(tiny_bundles["fp32"], tuning=tuning, threads=2) as vlm:
        assert vlm.engine_description.endswith("2 threads"), "what is given counts"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"device": "another"}, "the tuning is of another, this is"),
        ({"model": "another"}, "of another model than"),
        ({"threads": 0}, "threads.*no tuning"),
        ({"more": 1}, "more.*no tuning"),
        ({"schema": "pocketvlm-tuning/2"}, "schema.*no tuning"),
        ({"affinity": [-1]}, "affinity.*no tuning"),
        (None, "no tuning"),
    ],
)
def test_a_tuning_that_does_not_fit_is_refused(
    tiny_bundles: dict[str, Path], tmp_path: Path, change: dict[str, object] | None, message: str
) -> None:
    manifest = open_bundle(tiny_bundles["fp32"]).manifest
    good = Tuning(
        device=this_device(), model=manifest.model.revision, threads=1, tile_batch=1, prefill_chunk=8
    ).model_dump(mode="json", by_alias=True)
    saved = tmp_path / "tuning.json"
    saved.write_text(json.dumps(good)[:-5] if change is None else json.dumps({**good, **change}))
    with pytest.raises(PocketVlmError, match=message) as caught:
        load(tiny_bundles["fp32"], tuning=saved)
    assert "\n" not in str(caught.value)
    with pytest.raises(PocketVlmError, match="cannot be read"):
        load(tiny_bundles["fp32"], tuning=tmp_path / "none.json")
