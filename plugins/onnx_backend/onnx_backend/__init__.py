"""ONNX models through ONNX Runtime, as a backend of AI Gateway."""
