"""TensorFlow's checkpoints, read without TensorFlow: files in, tables of tensors out."""
