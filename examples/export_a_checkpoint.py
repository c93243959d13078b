"""Export a checkpoint and say how much memory it takes and what quantizing changed.

python examples/export_a_checkpoint.py examples/reader/checkpoint build/demo --recipe int4-g128
"""

from __future__ import annotations

import argparse
import sys

from pocketvlm.errors import PocketVlmError
from pocketvlm.export import export_bundle


class Lines:
    """Progress: a line as each phase begins, and what should be known of the result."""

    def phase(self, name: str, total: int) -> None:
        print(f"{name} ({total:,})", file=sys.stderr)

    def advance(self, amount: int) -> None:
        pass

    def note(self, line: str) -> None:
        print(f"note: {line}", file=sys.stderr)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("checkpoint", help="a directory with config.json and *.safetensors")
    options.add_argument("bundle", help="a directory to be made, or a file.zip")
    options.add_argument("--recipe", default="int4-g128", help="a name, or a TOML file")
    options.add_argument("--backend", action="append", help="onnx (the default), executorch, ...; may be repeated")
    given = options.parse_args()
    try:
        bundle = export_bundle(
            given.checkpoint, given.bundle, recipe=given.recipe, backends=given.backend or ["onnx"], progress=Lines()
        )
    except PocketVlmError as error:
        sys.exit(f"error: {error}")
    manifest = bundle.manifest
    print(f"{bundle.location}: {bundle.total_bytes / 1e6:.1f} MB, engines {', '.join(manifest.engines)}")
    print(f"KV cache: {manifest.kv_cache.length} tokens, {manifest.kv_cache.dtype}")
    print(f"logits: KL divergence {manifest.fidelity.text.kl_mean:.4f} nats from the original's on average")
    if manifest.fidelity.vision is not None:
        print(f"image tokens: cosine {manifest.fidelity.vision.cosine:.5f} to the original's")


if __name__ == "__main__":
    main()
