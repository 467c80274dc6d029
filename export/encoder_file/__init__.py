"""The encoder file: its contract, its reader and its card. Needs neither torch nor onnx.

`encoder_file` specifies the format and opens files; serving imports this folder alone of export.
"""
