"""A bundle in VLMEvalKit (open-compass, 0.2rc1; ms-vlmeval 0.0.20): its own command with a bundle for the model's name.

    python -m pocketvlm.harnesses.vlmevalkit --data OCRBench --model BUNDLE

The kit has no entry points: models are attributes of ``vlmeval.vlm`` and members of ``supported_VLM``. So its command
is called from here, once the bundle is both; in a configuration file the class is "PocketVlm".
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from vlmeval.api.adapters import build_adapter, get_adapter_registry
from vlmeval.vlm.base import BaseModel

from pocketvlm.errors import DataError, PocketVlmError, one_line
from pocketvlm.files import label, read_text
from pocketvlm.harnesses.asking import ask, generation_config, part
from pocketvlm.runtime import load

#: what a configuration calls the class
CLASS = "PocketVlm"
ARCHIVE = ".zip"
MAX_CONFIG_BYTES = 1 << 20
Given = dict[str, Any]


class VlmEvalKitModel(BaseModel):  # type: ignore[misc] # its package has no types
    """Answers one question at a time, on the CPU.

    ``bundle``, ``threads`` and ``engine`` are those of ``pocketvlm.runtime.load``; ``prompts``: whose wording of the
    questions is asked, where the kit has it apart from the model (``prompts_of``); without, each benchmark's own.
    ``settings`` are the answers', by transformers' names.
    """

    INSTALL_REQ = False
    INTERLEAVE = True
    VIDEO_LLM = False

    def __init__(
        self,
        bundle: str,
        threads: int | None = None,
        engine: str | None = None,
        prompts: str | None = None,
        system_prompt: str = "",
        **settings: Any,
    ) -> None:
        """:raises DataError: a setting is unknown, or the kit has no such prompts
        :raises BundleError: the bundle is damaged, or no bundle
        """
        super().__init__()
        self.prompts = None if prompts is None else prompts_of(prompts)
        self.config = generation_config(settings)
        self.system_prompt = system_prompt
        self.vlm = load(bundle, threads=threads, engine=engine)

    def set_dump_image(self, dump_image_func: Any) -> None:
        super().set_dump_image(dump_image_func)
        if self.prompts is not None:
            self.prompts.dump_image_func = dump_image_func

    def use_custom_prompt(self, dataset: str) -> bool:
        return self.prompts is not None and bool(self.prompts.use_custom_prompt(dataset))

    def build_prompt(self, line: Any, dataset: str) -> list[Given]:
        assert self.prompts is not None
        built: list[Given] = self.prompts.build_prompt(line, dataset)
        return built

    def generate_inner(self, message: list[Given], dataset: str | None = None) -> str:
        """The answer to one question: texts and files of images, in order, each of which may have a role."""
        by_role = groupby(message, key=lambda one: one.get("role", "user"))
        return self._reply([{"role": role, "content": list(parts)} for role, parts in by_role], dataset)

    def chat_inner(self, messages: list[Given], dataset: str | None = None) -> str:
        """The answer to the last question of a conversation."""
        return self._reply(messages, dataset)

    def _reply(self, messages: Sequence[Given], dataset: str | None) -> str:
        said: list[Given] = [
            {"role": one["role"], "content": [part(each["type"], each["value"]) for each in one["content"]]}
            for one in messages
        ]
        if self.system_prompt and said[0]["role"] != "system":
            said.insert(0, {"role": "system", "content": self.system_prompt})
        text = ask(self.vlm, said, self.config).text
        post = getattr(self.prompts, "postprocess", None)
        return text if post is None else str(post(text, dataset))


def prompts_of(name: str) -> Any:
    """How a model of the kit words its questions: an adapter that the kit has for models behind an API, or Qwen's.

    :raises DataError: there are none of that name
    """
    from vlmeval.vlm.qwen2_vl.prompt import Qwen2VLPromptMixin
    from vlmeval.vlm.qwen3_vl.prompt import Qwen3VLPromptMixin

    own = {"qwen2_vl": Qwen2VLPromptMixin, "qwen3_vl": Qwen3VLPromptMixin}
    if name in own:
        return own[name](use_custom_prompt=True)
    if name in get_adapter_registry():
        return build_adapter(name)
    known = ", ".join([*own, *get_adapter_registry()])
    raise DataError(f"prompts {one_line(repr(name), 80)}: the kit has those of {known}")


def main(arguments: Sequence[str]) -> None:
    """The kit's command with its own arguments; ``--model`` takes bundles too, and with a ``--config`` of data alone.

    :raises DataError: the arguments do not go together, or the configuration cannot be read
    """
    import vlmeval.vlm
    from vlmeval import run

    setattr(vlmeval.vlm, CLASS, VlmEvalKitModel)
    with tempfile.TemporaryDirectory(prefix="pocketvlm-") as directory:
        words, models = the_kits(arguments, Path(directory))
        run.supported_VLM.update({name: partial(VlmEvalKitModel, **settings) for name, settings in models.items()})
        sys.argv = [sys.argv[0], *words]
        run.main()


def the_kits(arguments: Sequence[str], directory: Path) -> tuple[list[str], dict[str, Given]]:
    """Arguments as the kit takes them, and the bundles among them by the names that stand there, with their settings.

    ``directory``: for a configuration that names the bundles.

    :raises DataError: two bundles have one name; there is a configuration that cannot be read, or that has models of
        its own, or models beside it that are no bundles
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--model", nargs="+", default=[])
    parser.add_argument("--config", type=Path)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--engine")
    parser.add_argument("--prompts")
    known, words = parser.parse_known_args(arguments)
    common = {name: getattr(known, name) for name in ("threads", "engine", "prompts")}
    common = {name: value for name, value in common.items() if value is not None}
    bundles = named(path for path in known.model if Path(path).exists())
    models = {name: {"bundle": path, **common} for name, path in bundles.items()}
    if known.config is not None and known.model:
        others = [name for name in known.model if not Path(name).exists()]
        if others:
            raise DataError(f"{one_line(others[0], 80)}: with --config, --model takes bundles, and this is none")
        config = directory / "config.json"
        config.write_text(json.dumps(with_models(known.config, models)), encoding="utf-8")
        return [*words, "--config", str(config)], models
    if known.config is not None:
        return [*words, "--config", str(known.config)], models
    names = [name_of(path) if Path(path).exists() else path for path in known.model]
    return [*words, *(["--model", *names] if names else [])], models


def named(paths: Iterable[str]) -> dict[str, str]:
    """Bundles by their names, which the kit calls its results by.

    :raises DataError: two have one name
    """
    bundles: dict[str, str] = {}
    for path in paths:
        whole = str(Path(path).resolve())
        if bundles.setdefault(name_of(path), whole) != whole:
            raise DataError(f"two bundles are named {name_of(path)}: the kit would write both results to one place")
    return bundles


def name_of(path: str) -> str:
    """A bundle's name, of its directory or its archive."""
    return Path(path).resolve().name.removesuffix(ARCHIVE)


def with_models(path: Path, models: Mapping[str, Given]) -> dict[str, Any]:
    """A configuration of data with these models.

    :raises DataError: it cannot be read, or has models of its own
    """
    try:
        config = json.loads(read_text(path, MAX_CONFIG_BYTES, DataError))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{label(path)}: not JSON ({one_line(error, 80)})") from error
    if not isinstance(config, dict) or "model" in config:
        raise DataError(f"{label(path)}: is no configuration of data alone: leave out --model, or the models in it")
    return {**config, "model": {name: {"class": CLASS, **settings} for name, settings in models.items()}}


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except PocketVlmError as error:
        sys.exit(f"error: {error}")
