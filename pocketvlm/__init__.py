"""Vision-language models, from checkpoint to phone.

The rooms are imported by name: ``pocketvlm.export``, ``pocketvlm.quant``, ``pocketvlm.runtime``, ``pocketvlm.bench``
and ``pocketvlm.models``. This package itself holds what they share and imports neither torch nor onnxruntime.
"""

__version__ = "0.1.0"
