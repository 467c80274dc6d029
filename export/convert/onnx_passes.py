"""Passes over an exported graph: fold the scaling, name the pooling, remove notes."""

import numpy as np
import onnx
from onnx import numpy_helper

SCALE = "input_scale"  # the initializer that `onnx_graph.EncoderGraph` multiplies images with


def fold_input_scale(graph: onnx.GraphProto) -> bool:
    """Multiply the input scaling into the first convolution; say whether that was possible.

    It is where the scaled image goes into one convolution without groups and nowhere else. That
    is exact: the padding's zeros stand after the subtraction, and a factor per input channel passes
    through a convolution.
    """
    weights = {value.name: value for value in graph.initializer}
    scalings = [node for node in graph.node if node.op_type == "Mul" and node.input[1] == SCALE]
    if len(scalings) != 1:
        return False
    scaling = scalings[0]
    users = [node for node in graph.node if scaling.output[0] in node.input]
    if len(users) != 1 or users[0].op_type != "Conv" or users[0].input[1] not in weights:
        return False
    kernel = weights[users[0].input[1]]  # [O, C / groups, height, width]
    scale = numpy_helper.to_array(weights[SCALE]).astype(np.float64)  # [1, C, 1, 1]
    shared = sum(kernel.name in node.input for node in graph.node) > 1
    if shared or kernel.dims[1] != scale.shape[1]:
        return False
    folded = (numpy_helper.to_array(kernel) * scale).astype(np.float32)
    kernel.CopyFrom(numpy_helper.from_array(folded, kernel.name))
    users[0].input[0] = scaling.input[0]
    graph.node.remove(scaling)
    graph.initializer.remove(weights[SCALE])
    return True


def strip(model: onnx.ModelProto) -> None:
    """Remove what the exporter notes for debugging, paths of source files among it."""
    graph = model.graph
    model.producer_name, model.producer_version = "lookalike", ""
    del model.metadata_props[:]
    del graph.metadata_props[:]
    del graph.value_info[:]
    graph.name, graph.doc_string = "encoder", ""
    for message in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        del message.metadata_props[:]
        message.doc_string = ""


def pool_globally(graph: onnx.GraphProto) -> int:
    """Replace means over the last two of four axes by GlobalAveragePool; return how many.

    ONNX Runtime computes that in the blocked layout of the convolutions around it, a ReduceMean
    only after reordering. Ranks are looked up in `value_info`, so this comes before `strip`.
    """
    axes = {value.name: value for value in graph.initializer}
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in graph.value_info}
    changed = 0
    for node in graph.node:
        if node.op_type != "ReduceMean" or len(node.input) != 2 or ranks.get(node.input[0]) != 4:
            continue
        keeps = all(entry.i == 1 for entry in node.attribute if entry.name == "keepdims")
        if keeps and set(numpy_helper.to_array(axes[node.input[1]]) % 4) == {2, 3}:
            node.op_type = "GlobalAveragePool"
            del node.input[1], node.attribute[:]
            changed += 1
    used = {name for node in graph.node for name in node.input}
    for value in axes.values():
        if value.name not in used:
            graph.initializer.remove(value)
    return changed
