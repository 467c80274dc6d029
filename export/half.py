"""An encoder in fp16, for GPUs: half the size, twice the arithmetic; uint8 in, float32 out.

In fp32 stay the first convolution and what stands before it (its weights hold the scaling by
1/255 and would become subnormal), global pooling and everything after the features. The CPU
provider computes such a file too, through casts and slower than fp32: that is how it is checked.
Speed on GPUs was not measured.

bf16 is not offered: ONNX Runtime's CPU provider cannot load it (onnxruntime#28768), so that such a
file could neither be verified nor be served on another machine.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING

from export.encoder_file import FEATURES, INPUT
from export.onnx_graph import Draft
from export.quantize_graph import prepare, quiet

if TYPE_CHECKING:
    import onnx

SUMS = ("GlobalAveragePool", "ReduceMean", "ReduceL2")


def halve_draft(draft: Draft) -> Draft:
    """The same encoder with its inner layers in fp16."""
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = prepare(draft.model)
    with quiet():
        halved: onnx.ModelProto = convert_float_to_float16(
            copy.deepcopy(model), keep_io_types=True, node_block_list=kept_in_fp32(model.graph)
        )
    ONNXModel(halved).topological_sort()
    del halved.graph.value_info[:]
    return Draft(model=halved, contract=replace(draft.contract, precision="fp16"))


def kept_in_fp32(graph: onnx.GraphProto) -> list[str]:
    """Names of the nodes up to the first layer, of sums over a picture, and behind the features."""
    kept = []
    early, late = {INPUT}, {FEATURES}
    for node in graph.node:
        if early & set(node.input):
            if node.op_type not in ("Conv", "MatMul", "Gemm"):
                early |= set(node.output)
            kept.append(node.name)
        elif late & set(node.input):
            late |= set(node.output)
            kept.append(node.name)
        elif node.op_type in SUMS or FEATURES in node.output:
            kept.append(node.name)
    return kept
