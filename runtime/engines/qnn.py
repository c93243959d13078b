"""The program of ``engines.qnn`` on the host: its QDQ graphs on the CPU, or compiled by Qualcomm and simulated.

Neither says anything of the time that a phone takes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pocketvlm.errors import BundleError
from pocketvlm.machine import qnn
from pocketvlm.runtime.engines.npu_program import NpuProgramOnHost

if TYPE_CHECKING:
    from pathlib import Path

    from pocketvlm.bundle.open import Bundle

#: Parts that are the CPU's on a phone too.
ON_CPU = ("patch_embedding", "token_embedding")


class QnnEmulation(NpuProgramOnHost):
    """The graphs as they are, between their roundings in float32."""

    PARTS: ClassVar[str] = "qnn"

    @property
    def description(self) -> str:
        return (
            f"emulation of the {self._program.platform} NPU's program: onnxruntime {self._ort.__version__}, CPU, "
            f"{self._threads} threads"
        )

    def _make_session(self, name: str, graph: str | bytes, options: Any) -> Any:
        # What quantizes stays where it is: it is the program.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        return self._ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"], enable_fallback=False)


class QnnSimulator(QnnEmulation):
    """The graphs compiled by Qualcomm's compiler when they are loaded, run by the simulator of the chip's Hexagon.

    Compiled parts of the bundle are for a phone: no host loads them.

    :raises BundleError: the wheel is not there, or of another version; the compiler leaves an operator to the CPU
    """

    def __init__(
        self, bundle: Bundle, threads: int, prepacked_cache: Path | None = None, affinity: tuple[int, ...] = ()
    ) -> None:
        if why := qnn.problem():
            raise BundleError(f"--engine qnn-simulator: {why}")
        super().__init__(bundle, threads, prepacked_cache, affinity)

    @property
    def description(self) -> str:
        chip = qnn.CHIPS[self._program.platform]
        return (
            f"simulation of the {self._program.platform}'s Hexagon (v{chip.htp_arch}): {qnn.PACKAGE} "
            f"{qnn.installed_version()} on onnxruntime {self._ort.__version__}"
        )

    def _make_session(self, name: str, graph: str | bytes, options: Any) -> Any:
        if name in ON_CPU:
            return super()._make_session(name, graph, options)
        qnn.use_htp(self._ort, options, qnn.CHIPS[self._program.platform])
        with qnn.stdout_to_stderr():
            session = self._ort.InferenceSession(graph, options)
        if left := qnn.left_to_cpu(session):
            raise BundleError(f"{name}: Qualcomm's compiler leaves to the CPU {', '.join(left[:3])}")
        return session
