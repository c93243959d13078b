"""The stock LiteRT-LM, in a process of its own: it shares nothing with the engine that it is compared with.

python -m studies.litert_lm.stock MODEL < DIALOGUES, JSON: {"dialogues": [[content, ...], ...], "most": tokens,
"sees": bool, "template": Jinja or null}; writes the answers of each dialogue as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click


def answers(
    path: Path, dialogues: Sequence[Sequence[Any]], most: int, *, sees: bool, template: str | None = None
) -> list[list[str]]:
    """What LiteRT-LM answers, greedily on one thread, to the questions of each dialogue.

    ``template`` is Jinja in place of the file's own.
    """
    job = {"dialogues": dialogues, "most": most, "sees": sees, "template": template}
    command = [sys.executable, "-m", "studies.litert_lm.stock", str(path)]
    done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(f"LiteRT-LM failed: {done.stderr.strip()[-500:]}")
    found: list[list[str]] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Answer what is on stdin."""
    import litert_lm

    job, cpu = json.load(sys.stdin), litert_lm.Backend.CPU(thread_count=1)
    options = {"vision_backend": litert_lm.Backend.CPU(), "max_num_images": 16} if job["sees"] else {}
    greedy, said = litert_lm.SamplerConfig(top_k=1, temperature=0.0, seed=1), []
    with litert_lm.Engine(sys.argv[1], backend=cpu, **options) as engine:
        for questions in job["dialogues"]:
            with engine.create_conversation(
                sampler_config=greedy, max_output_tokens=job["most"], chat_template=job["template"]
            ) as conversation:
                messages = [conversation.send_message({"role": "user", "content": content}) for content in questions]
                said.append(["".join(part["text"] for part in message["content"]) for message in messages])
    print(json.dumps(said))


if __name__ == "__main__":
    main()
