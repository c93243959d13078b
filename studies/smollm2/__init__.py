"""pocketvlm's recipes beside llama.cpp's and ONNX Runtime's own quantizers, on a real language model."""
