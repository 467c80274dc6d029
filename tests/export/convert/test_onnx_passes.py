"""Passes over graphs: what is folded, and what has to stay."""

import numpy as np
import onnx
from onnx import helper, numpy_helper

from export.convert.onnx_passes import SCALE, fold_input_scale


def test_scaling_is_not_folded_into_a_kernel_that_is_used_twice() -> None:
    kernel = numpy_helper.from_array(np.ones((3, 3, 1, 1), np.float32), "kernel")
    scale = numpy_helper.from_array(np.full((1, 3, 1, 1), 0.5, np.float32), SCALE)
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["x", SCALE], ["scaled"]),
            helper.make_node("Conv", ["scaled", "kernel"], ["once"]),
            helper.make_node("Conv", ["once", "kernel"], ["twice"]),
        ],
        "shared",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, 2, 2])],
        [helper.make_tensor_value_info("twice", onnx.TensorProto.FLOAT, [1, 3, 2, 2])],
        [kernel, scale],
    )
    assert not fold_input_scale(graph)
    assert [node.op_type for node in graph.node] == ["Mul", "Conv", "Conv"]
    np.testing.assert_array_equal(numpy_helper.to_array(graph.initializer[0]), 1)
