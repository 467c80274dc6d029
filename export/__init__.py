"""Run folder to one self-describing ONNX encoder file."""
