"""From a run folder to one self-describing ONNX encoder file, checked and measured.

In: a run folder, another library's weights, or an ONNX file. Out: an encoder file. `convert/` makes
it, `shrink/` makes it smaller or faster, `verify/` compares it with its origin, `evaluate/`
measures its vectors, `encoder_file/` specifies, reads and runs it, `cli/` has the commands.
"""
