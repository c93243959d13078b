"""A bundle in lmms-eval (EvolvingLMMs-Lab, 0.7): ``lmms-eval --model pocketvlm --model_args bundle=PATH``.

Of the interface of a model that takes messages (``lmms_eval.api.model.lmms`` with ``is_simple = False``): a request's
``args`` are (text of the context, function from a document to messages, settings, number of the document, task, split).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from tqdm import tqdm

from pocketvlm.errors import DataError, located, one_line
from pocketvlm.harnesses.asking import ask, generation_config, part
from pocketvlm.runtime import load


class LmmsEvalModel(lmms):  # type: ignore[misc] # its package has no types
    """Answers one question at a time, on the CPU.

    ``bundle``, ``threads`` and ``engine`` are those of ``pocketvlm.runtime.load``; ``system_prompt`` is a text or a
    file of it and goes before a task's own; ``ignore_until``: only a stop token or the longest length ends an answer,
    as in lmms-eval's class "huggingface", which looks for no strings.
    """

    is_simple = False

    def __init__(
        self,
        bundle: str,
        threads: int | None = None,
        engine: str | None = None,
        system_prompt: str = "",
        ignore_until: bool = False,
        batch_size: int | str = 1,
        device: str | None = None,
        **others: Any,
    ) -> None:
        """lmms-eval gives ``batch_size``, ``device`` and ``max_batch_size`` of its own accord.

        :raises DataError: a setting is unknown, or asks for several questions, devices or processes at a time
        :raises BundleError: the bundle is damaged, or no bundle
        """
        super().__init__()
        others.pop("max_batch_size", None)
        if others:
            raise DataError(f"--model_args: {one_line(', '.join(others), 120)} is unknown")
        if str(batch_size) != "1":
            raise DataError(f"--batch_size {one_line(batch_size, 40)}: a bundle answers one question at a time")
        if device not in (None, "cpu"):
            raise DataError(f"--device {one_line(device, 40)}: a bundle runs on the CPU here")
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise DataError("a bundle is asked by one process: give it more threads instead")
        self.vlm = load(str(bundle), threads=threads, engine=engine)
        self.system_prompt = self._resolve_system_prompt(system_prompt)
        self.ignore_until = ignore_until

    def generate_until(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """The answers, in the requests' order."""
        return [self._answer(number, request) for number, request in enumerate(tqdm(requests, desc="Model Responding"))]

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        raise DataError(f"{_tasks(requests)}: asks how likely given answers are; a bundle is asked to answer")

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        raise DataError(f"{_tasks(requests)}: asks in several rounds, which is not there yet")

    def clean(self) -> None:
        """Called when all is answered."""
        self.vlm.close()
        super().clean()

    def _answer(self, number: int, request: Instance) -> GenerationResult:
        context, doc_to_messages, settings, document, task, split = request.args
        config = generation_config({**settings, **({"until": None} if self.ignore_until else {})}, number)
        with located(f"{task}, document {document}"):
            asked = doc_to_messages(self.task_dict[task][split][document])
            messages = self._apply_system_prompt(asked, self.system_prompt)
            answer = ask(self.vlm, [_message(one) for one in messages], config)
        self.cache_hook.add_partial("generate_until", (context, settings), answer.text)
        counts = TokenCounts(input_tokens=answer.stats.prompt_tokens, output_tokens=answer.stats.generated_tokens)
        return GenerationResult(answer.text, counts)


def _message(given: dict[str, Any]) -> dict[str, Any]:
    """lmms-eval's message, whose media stand under "url", as the runtime's.

    :raises DataError: it has a video or a sound
    """
    content = given["content"]
    if isinstance(content, str):
        return {"role": given["role"], "content": content}
    parts = [part(one["type"], one["text"] if one["type"] == "text" else one.get("url")) for one in content]
    return {"role": given["role"], "content": parts}


def _tasks(requests: Sequence[Instance]) -> str:
    return one_line(", ".join(sorted({str(request.task_name) for request in requests})), 120)
