"""What ``pocketvlm export --backend neuropilot`` says at its end: how to run the program, and what is predicted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pocketvlm.cli.commands.export.npu import describe_program

if TYPE_CHECKING:
    from pocketvlm.bundle.manifest import Manifest
    from pocketvlm.bundle.open import Bundle
    from pocketvlm.bundle.static_programs import NpuProgram
    from pocketvlm.models.checkpoint import Checkpoint
    from pocketvlm.models.config import DecoderConfig

#: The profile of each platform that has one.
DEVICES = {"mt6989": "dimensity-9300"}
#: What MediaTek's runner adds to the score of what is hidden, where masks are float32.
RUNNER_MASK = -100.0
#: Where the phone has what was pushed to it.
PHONE = "/data/local/tmp/pocketvlm"


def describe(bundle: Bundle, checkpoint: Checkpoint, *, report: bool) -> None:
    """Print what became of the program; with ``report`` which operators are predicted to run where."""
    program = bundle.manifest.neuropilot
    assert program is not None
    describe_program(program)
    if program.compiled:
        click.echo(f"compiled for {program.platform}; it has not run on a phone. There:")
        click.echo(" \\\n    ".join(runner_command(bundle.manifest, checkpoint.config.text)))
        for problem in runner_problems(program):
            click.echo(f"but {problem}")
    else:
        click.echo(
            f"NOT compiled for {program.platform}: nothing of it runs on an NPU. Here it runs, exactly, by pocketvlm "
            f"run {bundle.location} --engine npu-emulation"
        )
    if report:
        for line in predicted(bundle.manifest, checkpoint):
            click.echo(line)


def runner_command(manifest: Manifest, text: DecoderConfig) -> list[str]:
    """The command line of ExecuTorch's ``mtk_llama_executor_runner`` (examples/mediatek) for this program, for text."""
    program = manifest.neuropilot
    assert program is not None
    files = ",".join(f"{PHONE}/{name}" for name in program.programs if "decoder" in name)
    return [
        f"adb shell LD_LIBRARY_PATH={PHONE} {PHONE}/mtk_llama_executor_runner",
        "--max_response=200",
        f"--prompt_token_batch_size={program.prefill_tokens}",
        f"--cache_size={manifest.kv_cache.length}",
        f"--hidden_size={text.hidden_size}",
        f"--num_head={text.num_attention_heads}",
        f"--num_layer={text.num_hidden_layers}",
        f"--head_dim={text.head_dim}",
        f"--max_token_length={manifest.kv_cache.length}",
        f"--rot_emb_base={text.rope_theta:g}",
        "--input_type=fp32 --output_type=fp32 --cache_type=int8 --mask_type=fp32 --rot_emb_type=fp32",
        f"--vocab_size={text.vocab_size}",
        f"--eos_token={manifest.tokens.stop[0]}",
        f"--tokenizer_type=hf --tokenizer_path={PHONE}/tokenizer.json",
        f"--token_embedding_path={PHONE}/embedding_fp32.bin",
        # Of files that have both methods, on one copy of the weights; two other options are for files with one each.
        f"--model_package_paths={files}",
        f"--prompt_file={PHONE}/prompt.txt",
    ]


def runner_problems(program: NpuProgram) -> list[str]:
    """What that runner, as it is in ExecuTorch 1.5, would do wrong with this program."""
    problems = []
    if len({end - first for first, end in program.chunks}) > 1:
        problems.append("that runner takes chunks of as many layers each only: export with --chunks that divide them")
    if program.mask_value != RUNNER_MASK:
        problems.append(
            f"that runner hides with {RUNNER_MASK:g}, and this model's scores ask for {program.mask_value:g}: change "
            "that in llm_helper/mask_builder.cpp before it is built"
        )
    return problems


def predicted(manifest: Manifest, checkpoint: Checkpoint) -> list[str]:
    """The report's lines: operators with their verdicts, then memory and time by the plan."""
    from pocketvlm.export.neuropilot.report import count_operators, verdict_of

    program = manifest.neuropilot
    assert program is not None
    counts = count_operators(checkpoint.config, checkpoint.tensors, program.prefill_tokens, manifest.kv_cache.length)
    lines = ["predicted partition (MediaTek's compiler was not asked):"]
    for operator, count in sorted(counts.items(), key=lambda item: (verdict_of(item[0]).verdict, -item[1])):
        known = verdict_of(operator)
        source = f" [{known.source}]" if known.source else ""
        lines.append(f"  {operator:18} x {count:<5} {known.verdict:13} {known.note}{source}")
    unknown = sum(count for operator, count in counts.items() if verdict_of(operator).verdict == "unknown")
    lines.append(
        f"  {unknown} operators may fall back to the CPU; each would cut a program, and its inputs and outputs leave "
        "the NPU and come back"
    )
    return [*lines, *_estimate(manifest)]


def _estimate(manifest: Manifest) -> list[str]:
    from pocketvlm.bundle.kv import bundle_kv_bytes
    from pocketvlm.plan import load_device, make_plan
    from pocketvlm.plan.model import model_of_manifest

    program = manifest.neuropilot
    assert program is not None
    name = DEVICES.get(program.platform)
    if name is None:
        return [f"no profile of {program.platform}: no estimate of memory and time (docs/plan.md)"]
    device = load_device(name)
    plan = make_plan(model_of_manifest(manifest), device, image=None)
    times = {phase.name: phase for phase in plan.phases}
    prefill, decode = times["prefill"], times["decode"]
    # Codes are read, float32 is written and read: nine bytes for each that the NPU would read by itself.
    moved = 8 * bundle_kv_bytes(manifest)
    slower = decode.seconds + moved / device.bandwidth
    return [
        f"estimated on {name}, all on the NPU (pocketvlm plan has more): peak {max(plan.peaks.values()) / 1e6:,.0f} "
        f"MB, prefill of {plan.prompt:,} tokens {prefill.seconds:.3g} s, decode {1 / decode.seconds:.3g} tokens/s",
        f"estimated cost of a CPU that converts the INT8 cache: {moved / 1e6:,.1f} MB more through memory a step, "
        f"decode {1 / slower:.3g} tokens/s",
    ]
