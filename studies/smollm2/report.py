"""The study's results as a table, as paired differences and as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from studies.smollm2.scores import paired

#: Two systems are set beside each other where pocketvlm's takes at most so many bits a weight more, all counted.
SLACK = 0.05
FAMILIES = {"pocketvlm": ("o", "tab:blue"), "llama.cpp": ("s", "tab:orange"), "ONNX Runtime": ("^", "tab:green")}


def table(report: Mapping[str, Any]) -> str:
    """A Markdown table, best first; the float models above."""
    lines = [
        "| system | bits: decoder | head | table | all | MB | perplexity | KL (95 %), 1e-3 nats | median "
        "| 99.9 % | same top 1 | KL of the weights alone |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    reference = report["reference"]["perplexity as packaged"]
    ordered = sorted(report["systems"].items(), key=lambda item: item[1]["shipped"]["kl"]["mean"])
    for label, result in ordered:
        bits, shipped, alone = result["bits"], result["shipped"], result["weights_alone"]
        kl = shipped["kl"]
        counted = " | ".join(f"{bits[group]:.2f}" for group in ("decoder", "head", "table", "all"))
        spread = " | ".join(_thousandths(kl[name]) for name in ("median", "p99.9"))
        lines.append(
            f"| {label} | {counted} | {result['bytes'] / 1e6:.0f} "
            f"| {shipped['perplexity']:.3f} (x{shipped['perplexity'] / reference:.4f}) "
            f"| {_thousandths(kl['mean'])} ({_thousandths(kl['low'])} to {_thousandths(kl['high'])}) | {spread} "
            f"| {shipped['top1_agreement']:.2%} | {_thousandths(alone['kl']['mean'])} |"
        )
    return "\n".join(lines)


def _thousandths(value: float) -> str:
    """Nats as thousandths, three digits."""
    return f"{value * 1e3:.3g}"


def pairs(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each of pocketvlm's recipes beside the peers that are at least as large: KL differences over the same windows."""
    found = []
    for label, result in results.items():
        for other_label, other in results.items():
            if result["family"] == "pocketvlm" != other["family"] and _comparable(result, other):
                differences = {
                    kind: paired(result[kind]["kl_by_window"], other[kind]["kl_by_window"])
                    for kind in ("shipped", "weights_alone")
                }
                found.append({"this": label, "other": other_label, **differences})
    return found


def _comparable(result: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return bool(result["bits"]["all"] <= other["bits"]["all"] + SLACK and result["bits"]["all"] < 16)


def plot(report: Mapping[str, Any], output: Path) -> None:
    """Bits a weight, all weights counted, against the mean KL; float models have no place on it."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(11, 7), layout="constrained")
    quantized = {label: result for label, result in report["systems"].items() if result["bits"]["all"] < 16}
    for family, (marker, color) in FAMILIES.items():
        members = {label: result for label, result in quantized.items() if result["family"] == family}
        kl = [result["shipped"]["kl"] for result in members.values()]
        bits = [result["bits"]["all"] for result in members.values()]
        means = [one["mean"] for one in kl]
        reach = [[one["mean"] - one["low"] for one in kl], [one["high"] - one["mean"] for one in kl]]
        axes.errorbar(bits, means, reach, fmt=marker, color=color, capsize=2, label=family)
        for label, x, y in zip(members, bits, means, strict=True):
            axes.annotate(label.removeprefix(f"{family} "), (x, y), (5, 3), textcoords="offset points", fontsize=7)
    axes.set(yscale="log", xlabel="bits a weight, all weights, scales counted", ylabel="KL to float32, nats (95 %)")
    axes.set_title("SmolLM2-135M-Instruct, rotated: quantizers on the same weights")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    figure.savefig(output, dpi=110)
    pyplot.close(figure)
