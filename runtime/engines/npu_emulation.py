"""The program of ``engines.neuropilot`` on the host, exact, by ONNX Runtime on the CPU."""

from __future__ import annotations

from typing import Any, ClassVar

from pocketvlm.runtime.engines.npu_program import NpuProgramOnHost


class NpuEmulation(NpuProgramOnHost):
    """Its graphs compute with the codes themselves."""

    PARTS: ClassVar[str] = "neuropilot"

    @property
    def description(self) -> str:
        state = "compiled for it, but not run on it" if self._program.compiled else "not compiled for it"
        return (
            f"emulation of the {self._program.platform} NPU's program ({state}): onnxruntime {self._ort.__version__}, "
            f"CPU, {self._threads} threads"
        )

    def _make_session(self, name: str, graph: str | bytes, options: Any) -> Any:
        """With the weights unpacked, a byte each, or as pages of their file, unpacked at each run."""
        # What quantizes stays where it is: it is the program.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        return self._ort.InferenceSession(
            graph,
            options,
            providers=["CPUExecutionProvider"],
            enable_fallback=False,
            disabled_optimizers=None if _keeps_weights(name) else ["ConstantFolding"],
        )


def _keeps_weights(name: str) -> bool:
    """Whether a part is to have its weights unpacked in memory.

    A step of one token reads each weight once: unpacking it first would take several times as long. One of 128, or a
    tile of hundreds of patches, hardly takes longer for it; kept by both, weights would be in memory twice.
    """
    return name.startswith("text_decoder") and name.endswith("_1")
