"""ONNX Runtime's session option that keeps products of bytes exact on every x86 CPU.

The vision part multiplies unsigned activations with signed weights: what VNNI and AMX take, several times as fast as
two unsigned sides. A kernel without them adds pairs of products in 16 bits, which saturate; with this option ONNX
Runtime makes such weights unsigned when it loads them, on any x86 CPU. Other CPUs' kernels are exact, and ignore it.
"""

from __future__ import annotations

from pocketvlm.machine.cpu import parse_cpu_info, read_cpu_info

OPTION = "session.x64quantprecision"
#: Features of a CPU that multiplies bytes and adds them in 32 bits.
EXACT = frozenset({"avx512_vnni", "avx_vnni"})


def session_entry() -> tuple[str, str]:
    """Name and value for ``SessionOptions.add_session_config_entry`` on this machine."""
    return OPTION, "0" if has_exact_kernels(read_cpu_info()) else "1"


def has_exact_kernels(cpuinfo: str) -> bool:
    """Whether /proc/cpuinfo names a CPU with VNNI."""
    return bool(EXACT & parse_cpu_info(cpuinfo).features)
