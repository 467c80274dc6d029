"""A run, weights or a foreign ONNX file in, an encoder file out."""
