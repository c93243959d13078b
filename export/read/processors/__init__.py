"""Image processors that are read, a file each: a new one is a schema with a function, and a line in ``READERS``."""

from __future__ import annotations

from pocketvlm.export.read.processors.gemma3 import read_gemma3
from pocketvlm.export.read.processors.gemma4 import read_gemma4
from pocketvlm.export.read.processors.idefics3 import read_idefics3
from pocketvlm.export.read.processors.internvl import read_got_ocr2, read_internvl_chat
from pocketvlm.export.read.processors.lfm2_vl import read_lfm2_vl
from pocketvlm.export.read.processors.llava import read_llava, read_llava_next, read_llava_qwen2
from pocketvlm.export.read.processors.minicpmv import read_minicpmv
from pocketvlm.export.read.processors.minicpmv4_6 import read_minicpmv4_6
from pocketvlm.export.read.processors.processor import Reader
from pocketvlm.export.read.processors.qwen2_vl import read_qwen2_vl
from pocketvlm.export.read.processors.siglip import read_siglip

READERS: dict[str, Reader] = {
    "siglip": read_siglip,
    "idefics3": read_idefics3,
    "got_ocr2": read_got_ocr2,
    "internvl_chat": read_internvl_chat,
    "llava": read_llava,
    "llava_next": read_llava_next,
    "llava_qwen2": read_llava_qwen2,
    "qwen2_vl": read_qwen2_vl,
    "lfm2_vl": read_lfm2_vl,
    "minicpmv": read_minicpmv,
    "minicpmv4_6": read_minicpmv4_6,
    "gemma3": read_gemma3,
    "gemma4": read_gemma4,
}
