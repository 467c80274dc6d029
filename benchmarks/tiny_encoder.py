"""An encoder that costs next to nothing, where something else is to be measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from export.encoder_file.encoder_file import EncoderContract, write_encoder_file
from images.pixels.preprocess import PreprocessSpec

if TYPE_CHECKING:
    from pathlib import Path

DIM = 128


def write_tiny_encoder(path: Path, size: int) -> None:
    """Write an encoder of one random matrix over all pixels.

    Args:
        path: the file.
        size: side of its square input, in pixels.
    """
    values = size * size * 3
    matrix = np.random.default_rng(0).normal(0, values**-0.5, (values, DIM)).astype(np.float32)
    constants = {
        "matrix": matrix,
        "middle": np.float32(127.5),
        "flat": np.array([-1, values], np.int64),
        "rows": np.array([1], np.int64),
        "tiny": np.float32(1e-12),
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["float", "middle"], ["centered"]),
        helper.make_node("Reshape", ["centered", "flat"], ["line"]),
        helper.make_node("MatMul", ["line", "matrix"], ["features"]),
        helper.make_node("ReduceL2", ["features", "rows"], ["length"], keepdims=1),
        helper.make_node("Max", ["length", "tiny"], ["divisor"]),
        helper.make_node("Div", ["features", "divisor"], ["embeddings"]),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", size, size, 3])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", DIM])
               for name in ("features", "embeddings")]  # fmt: skip
    weights = [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()]
    graph = helper.make_graph(nodes, "tiny", [images], outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    contract = EncoderContract(
        preprocess=PreprocessSpec(size=size),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        feature_dim=DIM,
        embedding_dim=DIM,
        source_sha256="0" * 64,
        recipe={},
        quality={},
        licence_note="made by a benchmark",
        created_with={},
    )
    write_encoder_file(model, contract, path)
