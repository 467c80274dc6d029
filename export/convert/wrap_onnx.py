"""Any image encoder in ONNX, wrapped as an encoder file.

    images uint8 [N,S,S,3] -> float, / 255, - mean, / std -> its layout -> its graph, unchanged
    its output -> [N,D] -> features -> / max(|h|, tiny) -> embeddings

What the graph shows need not be given: layout and size by its input, the output where there is one
of rank 2. No graph shows mean and std, so they have to be given. A batch fixed to 1 becomes dynamic
where the result stays the same: the finished graph is compared with the original in plain ONNX
Runtime, image by image.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper, shape_inference

from base.errors import ArtifactError
from base.files import sha256_file
from base.text import one_line
from export.convert.onnx_file import read_model
from export.convert.onnx_graph import NO_LICENSE, TINY_NORM, Draft
from export.convert.onnx_inspect import (
    INPUT_TYPES,
    Layout,
    OnnxOptions,
    Token,
    classifier_warning,
    find_layout,
    find_norm,
    find_output,
    find_size,
    image_input,
)
from export.convert.onnx_original import Original, plain_session
from export.encoder_file.contract import EMBEDDINGS, FEATURES, INPUT, EncoderContract
from export.verify.generated_images import generated_images
from images.pixels.preprocess import RGB, PreprocessSpec
from training.weights.library_settings import resize_to

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto, ValueInfoProto

    from training.weights.weight_layouts import Rgb

PREFIX = "wrapped/"
IMAGES = 3  # compared with the original
TOLERANCE = 1e-3
OLDEST_OPSET = 9
OLDEST_IR = 4


@dataclass(frozen=True, kw_only=True)
class Wrapped:
    """How a graph was wrapped."""

    layout: Layout
    size: int
    element: str  # its input's type
    output: str
    fixed_batch: bool  # it was fixed to 1 and is dynamic now
    token: Token | None = None
    warning: str | None = None  # of what looks like a classifier

    @property
    def summary(self) -> str:
        """Describe it in one line."""
        batch = ", its batch of 1 made free" if self.fixed_batch else ""
        of = {None: "", "cls": " (first token)", "mean": " (mean of tokens)"}[self.token]
        return (
            f"found input {self.element} {self.layout.upper()} of {self.size} px, features "
            f"'{self.output}'{of}{batch}; compared with the original on {IMAGES} pictures"
        )


def draft_onnx(
    file: str | os.PathLike[str],
    *,
    options: OnnxOptions | None = None,
    licence_note: str = NO_LICENSE,
) -> tuple[Draft, Wrapped]:
    """Wrap another library's ONNX encoder as an encoder file; its weights stay as they are.

    Args:
        file: the model.
        options: what the graph does not show.
        licence_note: what the file says about the license of its weights.

    Raises:
        ArtifactError: damaged, unsafe, not an image encoder, or a batch that cannot be dynamic.
        UsageError: something that the graph does not show is missing or wrong.
    """
    file, options = Path(file), options or OnnxOptions()
    model = read_model(file)
    value = image_input(file, model)
    layout = find_layout(file, value, options)
    size = find_size(file, value, layout, options)
    element = INPUT_TYPES[value.type.tensor_type.elem_type]
    mean, std = find_norm(element, options)
    output = find_output(file, model, options)
    fixed = value.type.tensor_type.shape.dim[0].dim_value == 1
    original = Original(file, model, output, layout, mean=mean, std=std, token=options.token)
    wrapped = _wrap(model, value, output, layout, size, mean=mean, std=std)
    if fixed:
        _free_batch(wrapped)
    images = generated_images(IMAGES + 2, size)[2:]
    expected = original.features(images)
    _finish(wrapped, expected.shape[1], options.token)
    _compare(file, wrapped, images, expected, fixed=fixed)
    contract = EncoderContract(
        preprocess=PreprocessSpec(
            size=size,
            resize_to=options.resize_to or resize_to(size),
            resample=options.resample or "bicubic",
        ),
        mean=mean,
        std=std,
        feature_dim=expected.shape[1],
        embedding_dim=expected.shape[1],
        source_sha256=sha256_file(file),
        recipe={
            "name": "an ONNX file",
            "onnx": {"file": file.name, "layout": layout, "input": element, "output": output}
            | ({"token": options.token} if options.token else {}),
        },
        licence_note=licence_note,
        created_with={"onnx": onnx.__version__},
    )
    outcome = Wrapped(
        layout=layout,
        size=size,
        element=element,
        output=output,
        fixed_batch=fixed,
        token=options.token,
        warning=classifier_warning(model, output, expected.shape[1]),
    )
    return Draft(model=wrapped, contract=contract), outcome


def _wrap(
    model: ModelProto,
    value: ValueInfoProto,
    output: str,
    layout: Layout,
    size: int,
    *,
    mean: Rgb,
    std: Rgb,
) -> ModelProto:
    """Put the contract's input before the model and `raw` after its own output."""
    opset = next((entry.version for entry in model.opset_import if not entry.domain), 0)
    if opset < OLDEST_OPSET:
        raise ArtifactError(
            f"it uses ONNX operator set {opset}, {OLDEST_OPSET} or later is needed: "
            f"convert it with onnx.version_converter"
        )
    wrapped = compose.add_prefix(model, PREFIX)
    # weights that are not inputs came with IR version 4
    wrapped.ir_version = max(wrapped.ir_version, OLDEST_IR)
    graph, element = wrapped.graph, value.type.tensor_type.elem_type
    nodes: list[NodeProto] = []
    tensor = INPUT
    if element != TensorProto.UINT8:
        offset = 255 * np.asarray(mean, np.float64)
        scale = 1 / (255 * np.asarray(std, np.float64))
        for name, numbers in (("offset", offset), ("scale", scale)):
            graph.initializer.append(numpy_helper.from_array(numbers.astype(np.float32), name))
        nodes += [
            helper.make_node("Cast", [tensor], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("Sub", ["pixels", "offset"], ["shifted"]),
            helper.make_node("Mul", ["shifted", "scale"], ["scaled"]),
        ]
        tensor = "scaled"
    if element == TensorProto.FLOAT16:
        nodes.append(helper.make_node("Cast", [tensor], ["half"], to=TensorProto.FLOAT16))
        tensor = "half"
    if layout == "nchw":
        planes = helper.make_node("Transpose", [tensor], [PREFIX + value.name], perm=[0, 3, 1, 2])
        nodes.append(planes)
    else:
        nodes.append(helper.make_node("Identity", [tensor], [PREFIX + value.name]))
    for number, node in enumerate(nodes):
        graph.node.insert(number, node)
    weights = {tensor.name for tensor in graph.initializer}
    others = [v for v in graph.input if v.name != PREFIX + value.name and v.name not in weights]
    del graph.input[:], graph.output[:], graph.value_info[:]
    graph.input.append(
        helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["N", size, size, RGB])
    )
    assert not others  # `image_input` saw to it
    graph.node.append(helper.make_node("Cast", [PREFIX + output], ["raw"], to=TensorProto.FLOAT))
    return wrapped


def _finish(wrapped: ModelProto, dim: int, which: Token | None) -> None:
    """Append what turns `raw` into features [N,D] and embeddings, with operators of every opset."""
    graph = wrapped.graph
    constants = {"ones": np.ones((dim, 1), np.float32), "tiny": np.float32(TINY_NORM)}
    for name, numbers in constants.items():
        graph.initializer.append(numpy_helper.from_array(np.asarray(numbers), name))
    source = "raw"
    if which == "cls":
        graph.initializer.append(numpy_helper.from_array(np.asarray(0), "first"))
        graph.node.append(helper.make_node("Gather", ["raw", "first"], ["token"], axis=1))
        source = "token"
    elif which == "mean":
        graph.node.append(helper.make_node("Transpose", ["raw"], ["columns"], perm=[0, 2, 1]))
        source = "columns"
    if which == "mean" or (which is None and _rank(wrapped, "raw") == 4):
        graph.node.append(helper.make_node("GlobalAveragePool", [source], ["pooled"]))
        source = "pooled"
    graph.node.extend(
        [
            helper.make_node("Flatten", [source], [FEATURES], axis=1),
            helper.make_node("Mul", [FEATURES, FEATURES], ["squares"]),
            helper.make_node("MatMul", ["squares", "ones"], ["square"]),
            helper.make_node("Sqrt", ["square"], ["length"]),
            helper.make_node("Max", ["length", "tiny"], ["divisor"]),
            helper.make_node("Div", [FEATURES, "divisor"], [EMBEDDINGS]),
        ]
    )
    for name in (FEATURES, EMBEDDINGS):
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", dim]))


def _rank(model: ModelProto, name: str) -> int:
    """Infer the rank of an inner tensor; 2 where its shape cannot be inferred."""
    inferred = shape_inference.infer_shapes(model)
    values = [value for value in inferred.graph.value_info if value.name == name]
    return len(values[0].type.tensor_type.shape.dim) if values else 2


def _free_batch(model: ModelProto) -> None:
    """Let reshapes to [1, ...] follow the batch: the 1 becomes a -1, in a copy of their shape."""
    graph = model.graph
    shapes = {tensor.name: tensor for tensor in graph.initializer}
    constants = {
        node.output[0]: node.attribute[0].t
        for node in graph.node
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value"
    }
    for number, node in enumerate(graph.node):
        if node.op_type != "Reshape":
            continue
        tensor = shapes.get(node.input[1], constants.get(node.input[1]))
        if tensor is None:
            continue
        sizes = numpy_helper.to_array(tensor).copy()
        if len(sizes) and sizes[0] == 1:
            sizes[0] = 0 if -1 in sizes else -1  # 0: as in the input
            name = f"free_shape_{number}"
            graph.initializer.append(numpy_helper.from_array(sizes, name))
            node.input[1] = name


def _compare(
    file: Path,
    wrapped: ModelProto,
    images: NDArray[np.uint8],
    expected: NDArray[np.float32],
    *,
    fixed: bool,
) -> None:
    """Check that a wrapped graph computes what the original computes.

    Raises:
        ArtifactError: it computes something else, or fails.
    """
    session = plain_session(file, wrapped)
    cause = (
        "its batch is fixed to 1 and cannot be made free: export the original with a dynamic batch"
        if fixed
        else "this graph cannot be wrapped"
    )
    try:
        (together,) = session.run([FEATURES], {INPUT: images})
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        reason = one_line(error, 150)
        raise ArtifactError(
            f"{file} fails on {len(images)} pictures at once: {cause} ({reason})"
        ) from error
    scale = max(float(np.abs(expected).max()), TINY_NORM)
    off = (
        float(np.abs(together - expected).max()) / scale
        if together.shape == expected.shape
        else np.inf
    )
    if not off <= TOLERANCE:
        raise ArtifactError(
            f"{file} computes something else for {len(images)} pictures at once than for each "
            f"(relative error {off:.2g}): {cause}"
        )
