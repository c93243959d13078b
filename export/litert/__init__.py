"""Parts for LiteRT: TensorFlow Lite's flatbuffers, written without TensorFlow."""
