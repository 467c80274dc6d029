"""An encoder in fp16, for GPUs: half the size, twice the arithmetic; uint8 in, float32 out.

The first convolution and what precedes it stay in fp32 (its weights hold the scaling by 1/255 and
would become subnormal), and so do global pooling and everything after the features. The CPU
provider computes such a file too, through casts and slower than fp32: that is how it is checked.
Speed on GPUs was not measured.

bf16 is not offered: ONNX Runtime's CPU provider cannot load it (onnxruntime#28768), so that such a
file could neither be verified nor be served on another machine.
"""

from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.convert.onnx_graph import Draft
from export.encoder_file.contract import FEATURES, INPUT
from export.shrink.quantize_graph import prepare

SUMS = ("GlobalAveragePool", "ReduceMean", "ReduceL2")
MAKE_FLOATS = ("Cast", "Constant", "ConstantOfShape", "Resize", "Range")  # by attribute or contract


def halve_draft(draft: Draft) -> Draft:
    """Return the same encoder with its inner layers in fp16."""
    model = prepare(draft.model)
    graph = model.graph
    halve_graph(graph, kept_in_fp32(graph))
    del graph.value_info[:]
    return Draft(model=model, contract=replace(draft.contract, precision="fp16"))


def kept_in_fp32(graph: onnx.GraphProto) -> set[str]:
    """Name the nodes up to the first layer, sums over an image, and all after the features."""
    kept = set()
    early, late = {INPUT}, {FEATURES}
    for node in graph.node:
        if early & set(node.input):
            if node.op_type not in ("Conv", "MatMul", "Gemm"):
                early |= set(node.output)
            kept.add(node.name)
        elif late & set(node.input):
            late |= set(node.output)
            kept.add(node.name)
        elif node.op_type in (*SUMS, *MAKE_FLOATS) or FEATURES in node.output:
            kept.add(node.name)
    return kept


def halve_graph(graph: onnx.GraphProto, kept: set[str]) -> None:
    """Move all nodes but the kept ones to fp16, with one Cast where a tensor crosses over.

    Args:
        graph: with a type for every tensor, as `prepare` gives them; it is changed.
        kept: names of the nodes that stay.
    """
    constants = {value.name: value for value in graph.initializer}
    floats = {name for name, value in constants.items() if value.data_type == TensorProto.FLOAT}
    typed = (*graph.value_info, *graph.input, *graph.output)
    floats |= {v.name for v in typed if v.type.tensor_type.elem_type == TensorProto.FLOAT}
    half: set[str] = set()  # tensors that are in fp16
    casts: dict[str, str] = {}
    nodes = list(graph.node)
    del graph.node[:]

    def crossing(name: str, *, into_half: bool) -> str:
        if name not in floats or (name in half) == into_half:
            return name
        if name not in casts:
            casts[name] = f"{name}_{'fp16' if into_half else 'fp32'}"
            if name in constants:
                values = numpy_helper.to_array(constants[name]).astype(np.float16)
                graph.initializer.append(numpy_helper.from_array(values, casts[name]))
            else:
                to = TensorProto.FLOAT16 if into_half else TensorProto.FLOAT
                graph.node.append(helper.make_node("Cast", [name], [casts[name]], to=to))
        return casts[name]

    for node in nodes:
        into_half = node.name not in kept
        node.input[:] = [crossing(name, into_half=into_half) for name in node.input]
        if into_half:
            half |= floats & set(node.output)
        graph.node.append(node)
    used = {name for node in graph.node for name in node.input}
    for name, value in constants.items():
        if name not in used:
            graph.initializer.remove(value)
