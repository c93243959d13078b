"""The built-in model with a program for Qualcomm's NPU, and the same as if it had been compiled."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from pocketvlm.bundle.open import describe_files

#: What the tests' phones say that they have.
CHIP = "SM8650"


def write_reader(checkpoint: Path, path: Path) -> None:
    """The built-in model with parts for the CPU and a program that is not compiled."""
    from pocketvlm.export import export_bundle
    from pocketvlm.recipe import CalibrationConfig, load_recipe

    path.parent.mkdir(parents=True, exist_ok=True)
    calibration, table = CalibrationConfig(sequences=4), {"chunks": 2, "compiled": False}
    recipe = replace(load_recipe("int4-channel"), calibration=calibration, backends={"qnn": table})
    export_bundle(checkpoint, path, recipe=recipe, backends=["onnx", "qnn"], max_length=768)


def as_compiled(bundle: Path, path: Path, **needs: Any) -> Path:
    """A copy whose graphs stand for compiled ones as well, and whose preference is the NPU with these needs."""
    shutil.copytree(bundle, path)
    raw = json.loads((path / "manifest.json").read_text())
    parts = {part["file"] for name, part in raw["engines"]["qnn"].items() if not name.endswith("embedding")}
    programs = [f"{Path(file).stem}_compiled.onnx" for file in sorted(parts)]
    for file, program in zip(sorted(parts), programs, strict=True):
        (path / program).write_bytes((path / file).read_bytes())
    raw["qnn"].update(compiled=True, programs=programs)
    raw["format_version"] = 4
    raw["preference"] = [{"engine": "qnn", "chips": [CHIP], **needs}, {"engine": "onnx"}]
    described = describe_files(path, [*raw["files"], *programs])
    raw["files"] = {name: entry.model_dump(mode="json") for name, entry in described.items()}
    (path / "manifest.json").write_text(json.dumps(raw))
    return path
