"""The ONNX back end: graphs for ONNX Runtime on a phone's or a host's CPU."""
