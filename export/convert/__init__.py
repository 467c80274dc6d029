"""Drafts of encoder files: a graph with its contract, in fp32 and at full width.

In: a run folder, another library's weights or an ONNX file. Out: a `Draft` (`onnx_graph`), to be
written as it is or after a step of `export/shrink/`.
"""
