"""ExecuTorch's runtime through a C interface, compiled once against the installed wheel.

The wheel's Python bindings need PyTorch (its compiled modules are linked with it): half a gigabyte on disk and 200 MB
in memory that a runtime has no use for. The wheel also ships what is behind them, headers and shared libraries without
PyTorch. ``executorch_library.cpp`` is compiled against these, which takes two seconds and a C++ compiler.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pocketvlm.errors import PocketVlmError, one_line
from pocketvlm.files import written_whole
from pocketvlm.machine.cache import private_cache

Array = npt.NDArray[Any]
SOURCE = Path(__file__).with_name("executorch_library.cpp")
COMPILERS = ("c++", "g++", "clang++")
COMPILE_SECONDS = 300
#: As executorch-config.cmake has them: the headers are compiled as the libraries were.
FLAGS = (
    "-std=c++17",
    "-O2",
    "-fPIC",
    "-shared",
    "-Wno-deprecated-declarations",
    "-DC10_USING_CUSTOM_GENERATED_MACROS",
    "-DET_EVENT_TRACER_ENABLED",
)
LIBRARIES = ("executorch", "executorch_threadpool")
#: Linked although nothing in the source names them: they register kernels and the XNNPACK back end.
REGISTERING = ("executorch_kernels_optimized", "executorch_backend_xnnpack")
MOST_DIMENSIONS, ERROR_BYTES = 8, 512
#: What a run gives where the method is not loaded.
NOT_LOADED = 2
#: ExecuTorch's ScalarType.
SCALAR_TYPES = {"int8": 1, "int64": 4, "float32": 6}
#: XNNPACK's WorkspaceSharingMode: the graphs of one model share memory for what they compute.
SHARED_IN_MODEL = 1


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("bytes", ctypes.c_size_t),
        ("dtype", ctypes.c_int32),
        ("dimensions", ctypes.c_int32),
        ("sizes", ctypes.c_int32 * MOST_DIMENSIONS),
    )


class _State(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("data", ctypes.c_void_p), ("bytes", ctypes.c_size_t))


@dataclass(frozen=True)
class Package:
    """The installed wheel: its version, and the directory with ``include`` and ``lib``."""

    version: str
    directory: Path


def find_package() -> Package:
    """The installed ExecuTorch, which is looked for and not imported.

    :raises PocketVlmError: it is not installed, or has no shared libraries
    """
    spec = importlib.util.find_spec("executorch")
    try:
        version = importlib.metadata.version("executorch")
    except importlib.metadata.PackageNotFoundError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise PocketVlmError("ExecuTorch is not installed: pip install 'pocketvlm[executorch]'")
    directory = Path(next(iter(spec.submodule_search_locations)))
    if not (directory / "lib" / "libexecutorch.so").is_file():
        raise PocketVlmError(
            f"executorch {version} has no shared runtime in {directory / 'lib'}: install 1.5.1 or newer for Linux"
        )
    return Package(version, directory)


@functools.cache
def load_library() -> ctypes.CDLL:
    """The compiled interface, ready to be used; compiled first where this version's is not there.

    :raises PocketVlmError: ExecuTorch or a compiler is missing, or does not work
    """
    package = find_package()
    try:
        directory = private_cache("executorch")
    except PocketVlmError as error:
        warnings.warn(f"the executorch engine is compiled at each start: {error}", stacklevel=2)
        with tempfile.TemporaryDirectory(prefix="pocketvlm-") as made:  # a library that is loaded needs no file
            return _opened(_compiled(package, Path(made)))
    return _opened(_compiled(package, directory))


def _opened(path: Path) -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise PocketVlmError(f"{path} does not load: {one_line(error)}; delete it to have it compiled anew") from error
    library.pocketvlm_start.restype = None
    library.pocketvlm_close.restype = None
    library.pocketvlm_unload.restype = None
    library.pocketvlm_start()
    return library


def _compiled(package: Package, directory: Path) -> Path:
    """The shared library of this source and this wheel in ``directory``: whoever may write there decides the code."""
    identity = f"{package.version} {package.directory} {platform.machine()} {FLAGS}\n".encode() + SOURCE.read_bytes()
    path = directory / f"{hashlib.sha256(identity).hexdigest()[:32]}.so"
    if path.is_file():
        return path
    named = os.environ.get("CXX")
    compiler = next((found for name in ([named] if named else COMPILERS) if (found := shutil.which(name))), None)
    if compiler is None:
        raise PocketVlmError(
            "the executorch engine needs a C++ compiler once, and there is none: install g++ or clang, or set CXX"
        )
    with written_whole(path) as partial:
        _compile(compiler, package, partial)
    return path


def _compile(compiler: str, package: Package, output: Path) -> None:
    include, lib = package.directory / "include", package.directory / "lib"
    command = [
        compiler,
        *FLAGS,
        f"-I{include}",
        f"-I{include / 'executorch/runtime/core/portable_type/c10'}",
        "-o",
        str(output),
        str(SOURCE),
        f"-L{lib}",
        *(f"-l{name}" for name in LIBRARIES),
        "-Wl,--no-as-needed",
        *(f"-l{name}" for name in REGISTERING),
        f"-Wl,-rpath,{lib}",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PocketVlmError(f"the executorch engine cannot be compiled: {one_line(error)}") from error
    if done.returncode:
        wrong = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr)
        raise PocketVlmError(f"the executorch engine cannot be compiled with {compiler}: {one_line(wrong)}")


class LoadedProgram:
    """A program in memory, whose methods are loaded by name and run on NumPy arrays.

    ``content`` stays mapped as long as this lives: weights are read where they lie. With ``share_weights`` constants
    of one name are packed once for all methods and programs of the process.

    :raises PocketVlmError: from all methods, with the runtime's first message
    """

    def __init__(self, content: Any, name: str, *, share_weights: bool = True) -> None:
        self._library = load_library()
        self._name = name
        self._share_weights = int(share_weights)
        self._content: Array = np.frombuffer(content, np.uint8)
        handle = ctypes.c_void_p()
        error = ctypes.create_string_buffer(ERROR_BYTES)
        size = ctypes.c_size_t(self._content.nbytes)
        address = ctypes.c_void_p(self._content.ctypes.data)
        self._check(
            self._library.pocketvlm_open(address, size, ctypes.byref(handle), error, ctypes.c_size_t(ERROR_BYTES)),
            error,
        )
        self._handle = handle

    def load(self, method: str) -> None:
        """Load a method, if it is not: XNNPACK packs its weights."""
        error = ctypes.create_string_buffer(ERROR_BYTES)
        code = self._library.pocketvlm_load(
            self._handle, method.encode(), self._share_weights, SHARED_IN_MODEL, error, ctypes.c_size_t(ERROR_BYTES)
        )
        self._check(code, error)

    def input(self, method: str, index: int) -> tuple[str, tuple[int, ...]] | None:
        """Type and largest shape of a loaded method's input, None where there is none."""
        return self._described(method, 0, index, "")

    def output(self, method: str, index: int) -> tuple[str, tuple[int, ...]] | None:
        """The same of an output."""
        return self._described(method, 1, index, "")

    def state(self, method: str, name: str) -> tuple[str, tuple[int, ...]] | None:
        """The same of a tensor that stays from call to call."""
        return self._described(method, 2, 0, name)

    def _described(self, method: str, kind: int, index: int, name: str) -> tuple[str, tuple[int, ...]] | None:
        found = _Tensor()
        if self._library.pocketvlm_describe(
            self._handle, method.encode(), kind, ctypes.c_size_t(index), name.encode(), ctypes.byref(found)
        ):
            return None
        names = {number: text for text, number in SCALAR_TYPES.items()}
        return names.get(found.dtype, "another type"), tuple(found.sizes[: found.dimensions])

    def unload(self, method: str) -> None:
        """Free a method's memory."""
        self._library.pocketvlm_unload(self._handle, method.encode())

    def run(self, method: str, arguments: tuple[Array, ...], result: Array, states: Any = ()) -> Array:
        """Run a method, which is loaded first where it is not.

        :param result: float32 with room for what the method gives
        :param states: made by ``states_of``: where the method's state lies
        :returns: the part of ``result`` that was written, in the shape that the method gives
        """
        tensors = (_Tensor * len(arguments))(*(_tensor(argument) for argument in arguments))
        output = _tensor(result)
        error = ctypes.create_string_buffer(ERROR_BYTES)
        code = NOT_LOADED
        while code == NOT_LOADED:  # again where another thread has just unloaded it
            self.load(method)
            code = self._library.pocketvlm_run(
                self._handle,
                method.encode(),
                tensors,
                ctypes.c_size_t(len(tensors)),
                states or None,
                ctypes.c_size_t(len(states)),
                ctypes.byref(output),
                error,
                ctypes.c_size_t(ERROR_BYTES),
            )
        self._check(code, error)
        if output.dtype != SCALAR_TYPES["float32"]:
            raise PocketVlmError(f"{self._name}: {method} gives no float32 numbers")
        shape = tuple(output.sizes[: output.dimensions])
        # flat room -> the method's shape
        return result.reshape(-1)[: output.bytes // result.itemsize].reshape(shape)

    def __del__(self) -> None:
        """Free everything: when no call is under way any more, which holds a reference itself."""
        if (handle := getattr(self, "_handle", None)) is not None:
            self._library.pocketvlm_close(handle)

    def _check(self, code: int, error: ctypes.Array[ctypes.c_char]) -> None:
        if code:
            raise PocketVlmError(f"{self._name}: {one_line(error.value.decode(errors='replace'))}")


def states_of(arrays: dict[str, Array]) -> Any:
    """Arrays as the state of a method, by the names of its tensors; they must outlive the result."""
    items = (_State(name.encode(), array.ctypes.data, array.nbytes) for name, array in arrays.items())
    return (_State * len(arrays))(*items)


def set_threads(threads: int) -> None:
    """The number of threads of all programs of this process.

    :raises PocketVlmError: they cannot be started
    """
    if load_library().pocketvlm_set_threads(ctypes.c_uint32(threads)):
        raise PocketVlmError(f"ExecuTorch cannot start {threads} threads")


def _tensor(array: Array) -> _Tensor:
    assert array.flags.c_contiguous and array.ndim <= MOST_DIMENSIONS
    sizes = (ctypes.c_int32 * MOST_DIMENSIONS)(*array.shape)
    return _Tensor(array.ctypes.data, array.nbytes, SCALAR_TYPES[str(array.dtype)], array.ndim, sizes)
