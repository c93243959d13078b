"""The paper's table of speeds (arXiv 2411.10640, table 5), in form: this machine beside what was published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pocketvlm.bench.report.schema import OWN, Report
from pocketvlm.bench.speed.workload import Workload, decode_name, image_name, prefill_name

if TYPE_CHECKING:
    from pocketvlm.bundle.manifest import Manifest

#: Width and height of the paper's image, tokens of its prompt (those of the image are among them).
IMAGE, PROMPT = (768, 1536), 2048
NEW_TOKENS = 128
#: What the table has, by the names of ``pocketvlm.plan``'s published numbers: heading and unit.
COLUMNS = {
    "load": ("load", "s"),
    "image": ("image", "s"),
    "prefill": ("prefill", "s"),
    "decode": ("decode", "tokens/s"),
    "memory": ("memory", "GB"),
}


@dataclass(frozen=True)
class PaperLine:
    """A line of the table: who, and the values that there are, by column."""

    system: str
    values: Mapping[str, float]
    note: str = ""


def paper_workload(manifest: Manifest, threads: int, repeats: int, warmups: int) -> Workload:
    """The paper's: 2,048 tokens with the image's among them, then decoding behind them, as far as the KV cache goes."""
    length = manifest.kv_cache.length
    new_tokens = min(NEW_TOKENS, max(length // 16, 1))
    prompt = min(PROMPT, length - new_tokens)
    return Workload(
        image=IMAGE,
        prompts=(prompt,),
        new_tokens=new_tokens,
        depths=(prompt,),
        repeats=repeats,
        warmups=warmups,
        threads=threads,
    )


def paper_line(report: Report) -> PaperLine:
    """What a report of that workload says."""
    rows = {row.name: row for row in report.rows if row.system == OWN and row.seconds}
    workload = report.workload
    prompt, new_tokens = workload["prompts"][0], workload["new_tokens"]
    decode = rows.get(decode_name(new_tokens, workload["depths"][0]))
    seconds = {
        "load": rows.get("load warm"),
        "image": rows.get(image_name(IMAGE)),
        "prefill": rows.get(prefill_name(prompt)),
    }
    values = {name: row.median for name, row in seconds.items() if row is not None}
    if decode is not None and decode.rate is not None:
        values["decode"] = decode.rate
    if report.memory:
        values["memory"] = max(phase.peak for phase in report.memory) / 1e9
    note = f"{report.bundle.model}, {report.bundle.recipe}; {prompt} tokens of prompt, decode behind them"
    return PaperLine(f"this machine: {report.machine.summary}", values, note)
