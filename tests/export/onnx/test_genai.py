"""Stock ONNX Runtime GenAI as the client of a bundle's text part."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pocketvlm.export import export_bundle
from pocketvlm.runtime import GenerationConfig, load
from tests.support.checkpoints import FAMILIES, tiny_config, write_checkpoint

# In a process of its own: GenAI brings its own session settings and shuts down with the process.
CLIENT = """
import json, sys
import numpy, onnxruntime_genai as genai
model = genai.Model(sys.argv[1])
parameters = genai.GeneratorParams(model)
parameters.set_search_options(max_length=128)
generator = genai.Generator(model, parameters)
prompt = json.loads(sys.argv[2])
generator.append_tokens(numpy.array([prompt], dtype=numpy.int32))
tokens = []
while len(tokens) < 24 and not generator.is_done():
    generator.generate_next_token()
    tokens.append(int(generator.get_sequence(0)[-1]))
print(json.dumps(tokens))
"""


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("recipe", ["fp32", "int4-g32"])
def test_genai_gives_the_same_greedy_tokens(tmp_path: Path, family: str, recipe: str) -> None:
    """Until a stop token; accuracy_level 4 on one machine is the same arithmetic in both."""
    write_checkpoint(tmp_path / "checkpoint", tiny_config(family, vision=False))
    bundle = export_bundle(tmp_path / "checkpoint", tmp_path / "bundle", recipe=recipe, max_length=128).location
    with load(bundle, threads=1) as vlm:
        answer = vlm.stream("hello", config=GenerationConfig(max_new_tokens=24))
        ours = [piece.token_id for piece in answer if piece.token_id is not None]
        prompt = vlm.tokenize("hello").tolist()
        stop = set(vlm.manifest.tokens.stop)
    client = [sys.executable, "-c", CLIENT, str(bundle), json.dumps(prompt)]
    done = subprocess.run(client, capture_output=True, text=True, check=True)
    theirs = [token for token in json.loads(done.stdout) if token not in stop]
    ours = [token for token in ours if token not in stop]
    assert len(ours) > 3
    assert theirs == ours


def test_an_int8_cache_has_no_genai_config(tmp_path: Path, tiny_bundles: dict[str, Path]) -> None:
    told = json.loads((tiny_bundles["fp32"] / "genai_config.json").read_text())["model"]
    # None of the tokenizer's, so that no client prepends one; least of all the one that ends an answer.
    assert (told["bos_token_id"], told["eos_token_id"]) == (-1, [256])
    assert not (tiny_bundles["bluelm-v-3b"] / "genai_config.json").exists()
