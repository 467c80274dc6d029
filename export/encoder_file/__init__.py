"""The encoder file: its specification, contract, reader, ONNX Runtime session and card.

In: the path of an encoder file. Out: an `Encoder`, uint8 images to embeddings. `encoder_file` holds
the specification and is where to begin. Nothing here needs torch, and serving imports no other
folder of export.
"""
