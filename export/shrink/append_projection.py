"""A linear projection of the embeddings, appended to the graph of an encoder."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from export.convert.onnx_graph import TINY_NORM
from export.encoder_file.contract import EMBEDDINGS

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

UNIT = "unit_features"


def append_projection(
    model: onnx.ModelProto, weights: NDArray[np.float32] | None, shift: NDArray[np.float32]
) -> onnx.ModelProto:
    """Return a copy of the model whose embeddings are L2(unit weights + shift), fp32.

    Args:
        model: of a draft, not projected.
        weights: [D,E]; None: the identity, and nothing is multiplied.
        shift: [E].
    """
    model = copy.deepcopy(model)
    graph = model.graph
    for node in graph.node:  # the former embedding is now an inner tensor
        node.output[:] = [UNIT if name == EMBEDDINGS else name for name in node.output]
        node.input[:] = [UNIT if name == EMBEDDINGS else name for name in node.input]
    constants: dict[str, NDArray[Any]] = {
        "projection_shift": shift,
        "projection_axes": np.array([1], np.int64),
        "projection_tiny": np.array(TINY_NORM, np.float32),
    }
    steps: list[tuple[str, list[str], str]] = []
    if weights is not None:
        constants = {"projection": weights} | constants
        steps = [("MatMul", [UNIT, "projection"], "projected")]
    graph.initializer.extend(numpy_helper.from_array(v, name) for name, v in constants.items())
    steps += [
        ("Add", ["projected" if steps else UNIT, "projection_shift"], "shifted"),
        ("ReduceL2", ["shifted", "projection_axes"], "projected_length"),
        ("Max", ["projected_length", "projection_tiny"], "projected_divisor"),
        ("Div", ["shifted", "projected_divisor"], EMBEDDINGS),
    ]
    graph.node.extend(
        helper.make_node(kind, inputs, [output], name=f"project_{kind}")
        for kind, inputs, output in steps
    )
    batch = graph.input[0].type.tensor_type.shape.dim[0].dim_param or "N"
    (position,) = [i for i, value in enumerate(graph.output) if value.name == EMBEDDINGS]
    graph.output[position].CopyFrom(
        helper.make_tensor_value_info(EMBEDDINGS, TensorProto.FLOAT, [batch, len(shift)])
    )
    return model
