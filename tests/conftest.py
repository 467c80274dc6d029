"""Fixtures that several rooms share: images, and a tiny encoder file.

Everything is made here, from fixed seeds: no test reads data that is not its own.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from export.encoder_file.encoder_file import EncoderContract

# pytest --hypothesis-profile long
settings.register_profile("long", max_examples=2000, deadline=None)

TINY_RUN = (  # over the recipe small-cpu: a run of seconds whose encoder has every part
    "data.image_size=32",
    "data.stored_size=40",
    "data.mean=[0.5, 0.45, 0.4]",
    "data.std=[0.25, 0.3, 0.2]",
    "encoder.width=0.125",
    "training.batch_size=8",
    "training.samples=64",
    "training.precision=fp32",
)
CLASSES = ("discs", "ramps", "squares", "stripes")
PER_CLASS = 10


def draw_image(kind: str, width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """One image of a class: a shape of random place, size and colors, with a little noise."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    center_x, center_y = rng.uniform(0.3, 0.7) * width, rng.uniform(0.3, 0.7) * height
    reach = rng.uniform(0.2, 0.4) * min(width, height)
    if kind == "discs":
        mask = (np.hypot(x - center_x, y - center_y) < reach).astype(np.float64)
    elif kind == "ramps":
        mask = (x / width + y / height) / 2
    elif kind == "squares":
        inside = np.maximum(np.abs(x - center_x), np.abs(y - center_y)) < reach
        mask = inside.astype(np.float64)
    else:
        mask = (np.sin((x + y * rng.uniform(0.5, 2)) * rng.uniform(0.3, 0.8)) > 0).astype(
            np.float64
        )
    front, back = rng.uniform(0, 255, 3), rng.uniform(0, 255, 3)
    pixels = mask[..., None] * front + (1 - mask[..., None]) * back
    pixels += rng.normal(0, 6, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 40 images in 4 class sub-folders: JPEG and PNG, of sizes from 40 to 120 px.

    Shared by the whole session: copy it before changing it.
    """
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(7)
    for kind in CLASSES:
        (root / kind).mkdir()
        for number in range(PER_CLASS):
            width, height = (int(side) for side in rng.integers(40, 120, 2))
            image = draw_image(kind, width, height, rng)
            if number % 2:
                image.save(root / kind / f"{number:02}.png")
            else:
                image.save(root / kind / f"{number:02}.jpg", quality=90)
    return root


@pytest.fixture(scope="session")
def image_bytes() -> bytes:
    """One JPEG image of 64 x 48 pixels, as its bytes."""
    buffer = io.BytesIO()
    draw_image("discs", 64, 48, np.random.default_rng(11)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


TINY_SIZE, TINY_FEATURES = 32, 24
MANY_CHANNELS = 5


def tiny_graph(seed: int = 0, *, size: int = TINY_SIZE, channels: int = 3) -> onnx.ModelProto:
    """A small encoder graph made by hand: fixed random convolutions, no torch.

    Two strided convolutions, the mean over the image of their 24 channels as features, L2.
    Embeddings depend on color and on edges, which is all that a search needs to be tested.
    """
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(seed)

    def weights(*shape: int) -> NDArray[np.float32]:
        fan_in = float(np.prod(shape[1:]))
        drawn = rng.normal(0, fan_in**-0.5, shape)
        return drawn.astype(np.float32)

    constants = {
        "mean": np.full((1, channels, 1, 1), 127.5, np.float32),
        "scale": np.full((1, channels, 1, 1), 1 / 63.75, np.float32),
        "conv1": weights(12, channels, 3, 3),
        "conv2": weights(TINY_FEATURES, 12, 3, 3),
        "tiny": np.float32(1e-12),
        "rows": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Sub", ["planes", "mean"], ["centered"]),
        helper.make_node("Mul", ["centered", "scale"], ["scaled"]),
        helper.make_node("Conv", ["scaled", "conv1"], ["map1"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["map1"], ["active1"]),
        helper.make_node("Conv", ["active1", "conv2"], ["map2"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["map2"], ["active2"]),
        helper.make_node("GlobalAveragePool", ["active2"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"], axis=1),
        helper.make_node("ReduceL2", ["features", "rows"], ["length"], keepdims=1),
        helper.make_node("Max", ["length", "tiny"], ["divisor"]),
        helper.make_node("Div", ["features", "divisor"], ["embeddings"]),
    ]
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", TINY_FEATURES])
        for name in ("features", "embeddings")
    ]
    shape: list[str | int | None] = ["N", size, size, channels]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, shape)
    graph = helper.make_graph(
        nodes,
        "tiny",
        [images],
        outputs,
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def tiny_contract(seed: int = 0, *, size: int = TINY_SIZE, channels: int = 3) -> EncoderContract:
    """What `tiny_graph`'s encoder file says about itself."""
    from export.encoder_file.encoder_file import EncoderContract
    from images.pixels.preprocess import PreprocessSpec

    return EncoderContract(
        preprocess=PreprocessSpec(size=size, channels=channels),
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        feature_dim=TINY_FEATURES,
        embedding_dim=TINY_FEATURES,
        source_sha256=f"{seed:064x}",
        recipe={"name": "by hand"},
        quality={"knn_accuracy": 0.5},
        licence_note="made by the tests",
        created_with={"lookalike": "0"},
    )


def write_tiny_encoder(
    path: Path, *, seed: int = 0, size: int = TINY_SIZE, channels: int = 3
) -> Path:
    """Writes `tiny_graph` as an encoder file; another seed makes another encoder."""
    from export.encoder_file.encoder_file import write_encoder_file

    graph = tiny_graph(seed, size=size, channels=channels)
    write_encoder_file(graph, tiny_contract(seed, size=size, channels=channels), path)
    return path


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder file for 32 px images with 24 features, made without torch. Do not change it."""
    return write_tiny_encoder(tmp_path_factory.mktemp("encoder") / "encoder.onnx")


@pytest.fixture(scope="session")
def other_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another encoder of the same shape with other weights: the wrong one in mismatch tests."""
    return write_tiny_encoder(tmp_path_factory.mktemp("encoder") / "other.onnx", seed=1)


@pytest.fixture(scope="session")
def many_channel_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder file like `tiny_encoder`, for images of 5 channels. Do not change it."""
    path = tmp_path_factory.mktemp("encoder") / "channels.onnx"
    return write_tiny_encoder(path, channels=MANY_CHANNELS)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory, image_folder: Path) -> Path:
    """A run folder: ResNet-18 of width 1/8 at 32 px, trained for 8 steps. Do not change it."""
    from images.sources.sources import open_source
    from training.recipes.recipe_files import load_recipe
    from training.train import train

    run = tmp_path_factory.mktemp("runs") / "tiny"
    train(open_source(image_folder), load_recipe("small-cpu", list(TINY_RUN)), run, device="cpu")
    return run


@pytest.fixture(scope="session")
def exported_encoder(tmp_path_factory: pytest.TempPathFactory, tiny_run: Path) -> Path:
    """The encoder file of `tiny_run`. Do not change it."""
    from export.convert.onnx_graph import export_run

    return export_run(tiny_run, tmp_path_factory.mktemp("encoder") / "exported.onnx")
