"""What an ONNX graph shows of the encoder in it, and what has to be given by the user."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from onnx import TensorProto

from base.errors import ArtifactError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from onnx import ModelProto, ValueInfoProto

    from images.pixels.preprocess import Resample
    from training.weights.weight_layouts import Rgb

Layout = Literal["nchw", "nhwc"]
Token = Literal["cls", "mean"]
LAYOUTS: tuple[Layout, ...] = ("nchw", "nhwc")
PRODUCTS = ("Gemm", "MatMul")
SCORES = ("Softmax", "LogSoftmax", "Sigmoid")
CARRIES = ("Cast", "Flatten", "Identity", "Reshape", "Squeeze")  # move numbers, compute none
CLASSES = (1000, 1001, 21841, 21843)  # of ImageNet, with and without a background
FEW = 16  # numbers; encoders have more
INPUT_TYPES: dict[int, str] = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.UINT8: "uint8",
}


@dataclass(frozen=True, kw_only=True)
class OnnxOptions:
    """What the user states about a graph; None: what the graph shows.

    Attributes:
        layout: order of its input's axes, "nchw" or "nhwc".
        image_size: side of its images in pixels.
        output: name of the tensor that holds the features, an inner one too.
        token: of an output [N,T,D] the first of the T tokens, or the mean of all of them.
        mean: subtracted from images, in units of the divided pixels.
        std: divided by, likewise.
        divide: what pixels of 0 to 255 are divided by first: 1 for graphs that take bytes, say;
            None: 255.
        resize_to: short side of images before the center crop, pixels.
        resample: the filter that resizes them.
    """

    layout: Layout | None = None
    image_size: int | None = None
    output: str | None = None
    token: Token | None = None
    mean: Rgb | None = None
    std: Rgb | None = None
    divide: float | None = None
    resize_to: int | None = None
    resample: Resample | None = None


def image_input(file: Path, model: ModelProto) -> ValueInfoProto:
    """Return the one input that is not a weight, if it can be images."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs: list[ValueInfoProto] = [
        value for value in model.graph.input if value.name not in weights
    ]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs[:8])
        raise ArtifactError(f"{file} has {len(inputs)} inputs ({names}): an encoder has one")
    tensor = inputs[0].type.tensor_type
    if tensor.elem_type not in INPUT_TYPES or len(tensor.shape.dim) != 4:
        raise ArtifactError(
            f"{file}: its input {inputs[0].name} is {_described(inputs[0])}: pictures are "
            f"{', '.join(INPUT_TYPES.values())} with 4 axes"
        )
    if tensor.shape.dim[0].dim_value > 1:
        raise ArtifactError(
            f"{file}: its batch is fixed to {tensor.shape.dim[0].dim_value}: export the original "
            f"with a dynamic first axis"
        )
    return inputs[0]


def find_layout(file: Path, value: ValueInfoProto, options: OnnxOptions) -> Layout:
    """Return where the 3 colors are: the axis of length 3, or what the user states."""
    dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    if options.layout is not None:
        if options.layout not in LAYOUTS:
            raise UsageError(f"layout {options.layout!r} is unknown: choose nchw or nhwc")
        channels = dims[1] if options.layout == "nchw" else dims[3]
        if channels not in (0, 3):
            raise UsageError(
                f"{file}: in layout {options.layout} it has {channels} channels, not 3"
            )
        return options.layout
    if (dims[1] == 3) == (dims[3] == 3):
        raise UsageError(
            f"{file}: its input {value.name} is {_described(value)}, which does not show where "
            f"the 3 colors are: say --layout nchw or --layout nhwc"
        )
    return "nchw" if dims[1] == 3 else "nhwc"


def find_size(file: Path, value: ValueInfoProto, layout: Layout, options: OnnxOptions) -> int:
    """Return the side of the images, as the graph fixes it or the user states it."""
    dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    height, width = dims[2:] if layout == "nchw" else dims[1:3]
    if height and width and height != width:
        raise ArtifactError(
            f"{file} takes pictures of {width} x {height}: encoders here see squares"
        )
    shown = height or width
    if shown and options.image_size not in (None, shown):
        raise UsageError(f"{file} takes pictures of {shown} px, not {options.image_size}")
    size = shown or options.image_size
    if not size:
        raise UsageError(f"{file} takes pictures of any size: say --image-size, 224 say")
    if size < 1:
        raise UsageError(f"image size {size}: it must be at least 1 pixel")
    return size


def find_norm(element: str, options: OnnxOptions) -> tuple[Rgb, Rgb]:
    """Return mean and std in units of [0,1], whatever pixels are divided by first."""
    if element == "uint8":
        if options.mean is not None or options.std is not None:
            raise UsageError("its input is uint8, so mean and std are in its graph: leave them out")
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if options.mean is None or options.std is None:
        raise UsageError(
            "no graph shows how its pictures were normalized: say --mean and --std, for most "
            "networks of ImageNet --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225, for pictures "
            "in [0,1] --mean 0 --std 1"
        )
    divide = 255.0 if options.divide is None else options.divide
    if divide <= 0 or min(options.std) <= 0:
        raise UsageError("--std and --divide must be above 0")
    scale = divide / 255
    return _scaled(options.mean, scale), _scaled(options.std, scale)


def _scaled(color: Rgb, scale: float) -> Rgb:
    red, green, blue = color
    return red * scale, green * scale, blue * scale


def find_output(file: Path, model: ModelProto, options: OnnxOptions) -> str:
    """Return the tensor of features: the one the user names, or the one output of rank 2."""
    outputs: list[str] = [value.name for value in model.graph.output]
    made = {name for node in model.graph.node for name in node.output}
    if options.output is not None:
        if options.output not in made:
            last = _before_last(model)
            before = f"; '{last}' goes into its last matrix product" if last else ""
            raise UsageError(
                f"{file} has no tensor {options.output!r}: its outputs are {', '.join(outputs)}"
                f"{before}"
            )
        return options.output
    if len(outputs) == 1:
        return outputs[0]
    flat: list[str] = [v.name for v in model.graph.output if len(v.type.tensor_type.shape.dim) == 2]
    if len(flat) != 1:
        raise UsageError(
            f"{file} has {len(outputs)} outputs ({', '.join(outputs[:8])}): choose with --output"
        )
    return flat[0]


def classifier_warning(model: ModelProto, output: str, dim: int) -> str | None:
    """Return a warning where features are rather the scores of classes, None elsewhere.

    Args:
        model: the graph as it came.
        output: its tensor of features.
        dim: how many numbers it has for an image.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    maker, last = makers.get(output), _before_last(model, output)
    while maker is not None and maker.op_type in CARRIES:
        maker = makers.get(maker.input[0])
    operator = maker.op_type if maker is not None else ""
    if operator in SCORES:
        reason = f"it comes from {operator}"
    elif dim < FEW:
        reason = f"it has {dim} numbers"
    elif dim in CLASSES and operator in {*PRODUCTS, "Add"}:
        reason = f"it has {dim} numbers, as many as ImageNet has classes"
    else:
        return None
    offer = f"; the tensor before it: --output {last}" if last else ""
    return (
        f"warning: '{output}' looks like a classifier's scores, not like features ({reason}), "
        f"and pictures that are alike are poorly found by scores{offer}"
    )


def _before_last(model: ModelProto, output: str | None = None) -> str | None:
    """Return a classifier's features: what goes into the last matrix product [before `output`]."""
    makers = {name: node for node in model.graph.node for name in node.output}
    behind = list(makers) if output is None else [output]
    before = set(behind)
    while behind:
        maker = makers.get(behind.pop())
        more = [] if maker is None else [name for name in maker.input if name not in before]
        before.update(more)
        behind.extend(more)
    last = [
        node
        for node in model.graph.node
        if node.op_type in PRODUCTS and before.intersection(node.output)
    ]
    return last[-1].input[0] if last and last[-1].input[0] in makers else None


def _described(value: ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    dims = [dim.dim_param or str(dim.dim_value or "?") for dim in tensor.shape.dim]
    name = TensorProto.DataType.Name(tensor.elem_type).lower() if tensor.elem_type else "no tensor"
    return f"{name} [{', '.join(dims)}]"
