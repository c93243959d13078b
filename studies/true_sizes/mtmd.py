"""llama.cpp's mtmd by its Python package: a picture in, image features out."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from PIL import Image

from studies.smollm2.packages import study_module

Floats = npt.NDArray[np.float32]
#: mtmd's kinds of chunks.
TEXT, IMAGE = 0, 1


@dataclass(frozen=True)
class Mtmd:
    """An open vision part."""

    mtmd: Any
    context: Any
    width: int

    def encode(self, picture: Image.Image) -> Floats:
        """Image tokens [tokens, width] of a picture, prepared as llama.cpp does for this kind of model.

        :raises ClickException: it cannot be prepared or encoded
        """
        mtmd, found = self.mtmd, []
        pixels = np.asarray(picture.convert("RGB")).tobytes()
        buffer = (ctypes.c_uint8 * len(pixels)).from_buffer_copy(pixels)
        with ExitStack() as stack:
            bitmap = mtmd.mtmd_bitmap_init(picture.width, picture.height, buffer)
            stack.callback(mtmd.mtmd_bitmap_free, bitmap)
            chunks = mtmd.mtmd_input_chunks_init()
            stack.callback(mtmd.mtmd_input_chunks_free, chunks)
            marker = mtmd.mtmd_default_marker()
            text = mtmd.mtmd_input_text(marker, len(marker), False, True)
            bitmaps = (mtmd.mtmd_bitmap_p_ctypes * 1)(bitmap)
            if mtmd.mtmd_tokenize(self.context, chunks, ctypes.byref(text), bitmaps, 1):
                raise click.ClickException("mtmd cannot prepare the picture")
            for index in range(mtmd.mtmd_input_chunks_size(chunks)):
                chunk = mtmd.mtmd_input_chunks_get(chunks, index)
                if mtmd.mtmd_input_chunk_get_type(chunk) == IMAGE:
                    found.append(self._encoded(chunk))
        return np.concatenate(found)

    def _encoded(self, chunk: Any) -> Floats:
        if self.mtmd.mtmd_encode_chunk(self.context, chunk):
            raise click.ClickException("mtmd cannot encode a tile")
        tokens = self.mtmd.mtmd_input_chunk_get_n_tokens(chunk)
        values = self.mtmd.mtmd_get_output_embd(self.context)
        return np.ctypeslib.as_array(values, (tokens, self.width)).copy()


@contextmanager
def open_mtmd(mmproj: Path, text: Path, threads: int) -> Iterator[Mtmd]:
    """On the CPU, with so many threads.

    :raises ClickException: a file cannot be loaded
    """
    llama, mtmd = study_module("llama_cpp").llama_cpp, study_module("llama_cpp.mtmd_cpp")
    # (it has to live as long as they may call it)
    silent = llama.llama_log_callback(lambda level, text, data: None)
    llama.llama_log_set(silent, None)
    mtmd.mtmd_log_set(silent, None)
    with ExitStack() as stack:
        settings = llama.llama_model_default_params()
        settings.n_gpu_layers = 0
        model = llama.llama_model_load_from_file(str(text).encode(), settings)
        if not model:
            raise click.ClickException(f"llama.cpp cannot load {text}")
        stack.callback(llama.llama_model_free, model)
        wanted = mtmd.mtmd_context_params_default()
        wanted.use_gpu, wanted.n_threads, wanted.print_timings, wanted.warmup = False, threads, False, False
        context = mtmd.mtmd_init_from_file(str(mmproj).encode(), model, wanted)
        if not context:
            raise click.ClickException(f"llama.cpp cannot load {mmproj}")
        stack.callback(mtmd.mtmd_free, context)
        # (DeepStack's rows stand beside a feature)
        yield Mtmd(mtmd, context, llama.llama_model_n_embd_inp(model))
