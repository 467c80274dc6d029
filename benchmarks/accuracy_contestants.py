"""The contestants of accuracy_per_minute: train for some CPU time, measure the kNN accuracy."""

from __future__ import annotations

import importlib
import importlib.util
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

# before torch is loaded: threads that wait sleep; before lightly is: it must not ask the network
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("LIGHTLY_DID_VERSION_CHECK", "True")
import numpy as np
import torch

from benchmarks.lightly_simclr import Views
from training.data.dataset import NO_LABEL, ImageDataset
from training.data.sampling import spread
from training.models.features import encode
from training.optim.optimizers import set_learning_rate
from training.optim.schedule import warmup_cosine
from training.protocols.knn import knn_accuracy
from training.recipes.build_model import encoder_of
from training.recipes.recipe_files import load_recipe
from training.trainer import Trainer

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn

    from training.recipes.recipe import Recipe


RECIPE = (  # over small-cpu
    "data.image_size=32",
    "data.stored_size=32",
    "encoder.width=0.25",
    "encoder.stem=small",
    "encoder.zero_init_residual=false",
    "augmentation.crop_area=[0.2, 1.0]",
    "loss.temperature=0.2",
    "schedule.learning_rate=3e-3",
    "training.batch_size=128",
    "training.precision=fp32",
    "training.epochs=1000",  # more than there is time for
)


VIEWS = ((0.6, 16), (1.0, 24))  # up to this share of the time: px of a view


GALLERY, QUERIES = 10_000, 5_000


SIDE, LIGHTLY_BATCH = 32, 256


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # lightly's default


OURS, LIGHTLY, LIGHTLY_ADAMW = "ours", "lightly", "lightly, adamw"


CLOCK_STEPS = 10_000  # resolution of a schedule over the CPU time


def compete(name: str, seed: int, seconds: float, folder: Path) -> dict[str, float]:
    """Train one contestant for so many CPU seconds and measure its encoder."""
    torch.set_num_threads(1)
    images, labels = np.load(folder / "train.npy"), np.load(folder / "train-labels.npy")
    recipe = load_recipe("small-cpu", [*RECIPE, f"training.seed={seed}"])
    if name != OURS:  # what it imports does not count, as ours does not
        for module in ("loss", "models.modules", "transforms"):
            importlib.import_module(f"lightly.{module}")
    clock = CpuClock(seconds)
    if name == OURS:
        encoder, samples = train_ours(recipe, images, clock)
    else:
        encoder, samples = train_lightly(recipe, images, clock, adamw=name == LIGHTLY_ADAMW)
    used = clock.used
    tests, test_labels = np.load(folder / "test.npy"), np.load(folder / "test-labels.npy")
    query_rows, gallery_rows = spread(len(tests), QUERIES), spread(len(images), GALLERY)
    mean, std = ((0.0,) * 3, (1.0,) * 3) if name == OURS else (IMAGENET_MEAN, IMAGENET_STD)
    queries, gallery = (
        encode(encoder, pixels, mean=mean, std=std)
        for pixels in (tests[query_rows], images[gallery_rows])
    )
    accuracy = knn_accuracy(queries, test_labels[query_rows], gallery, labels[gallery_rows])
    return {"knn": 100 * accuracy, "seed": seed, "samples": samples, "cpu_s": round(used, 1)}


class CpuClock:
    """The CPU time this process has used, all threads together, since it was made."""

    def __init__(self, budget: float) -> None:
        self._start, self._budget = time.process_time(), budget

    @property
    def used(self) -> float:
        """Seconds."""
        return time.process_time() - self._start

    @property
    def share(self) -> float:
        """Of the budget; 1 and more: it is used up."""
        return self.used / self._budget


def rate_at(share: float, peak: float, warmup: float) -> float:
    """Return the rate of the run's schedule at a share of the time; past its end, the last one."""
    rates = warmup_cosine(peak, CLOCK_STEPS, round(warmup * CLOCK_STEPS))
    return float(rates[min(int(share * CLOCK_STEPS), CLOCK_STEPS - 1)])


def train_ours(recipe: Recipe, images: NDArray[np.uint8], clock: CpuClock) -> tuple[nn.Module, int]:
    """Train as `lookalike train` does, with one trainer after another for each size of views."""
    labels = np.full(len(images), NO_LABEL)
    dataset = ImageDataset(
        name="CIFAR-10-JPEG75", images=images, labels=labels, classes=(), refused=(), digest=""
    )
    schedule = recipe.schedule
    peak, warmup = schedule.learning_rate, schedule.warmup_fraction or 0.0
    trainer: Trainer | None = None
    for until, size in VIEWS:
        before = trainer
        smaller = replace(recipe, data=replace(recipe.data, image_size=size))
        trainer = Trainer(smaller, dataset, torch.device("cpu"))
        if before is not None:
            trainer.model.load_state_dict(before.model.state_dict())
            trainer.optimizer.load_state_dict(before.optimizer.state_dict())
            trainer.step = before.step
        while (share := clock.share) < until:
            trainer.learning_rates[trainer.step] = rate_at(share, peak, warmup)
            trainer.advance()
    assert trainer is not None
    trainer.check_finite()
    return trainer.model.encoder, trainer.step * recipe.training.batch_size


def train_lightly(
    recipe: Recipe, images: NDArray[np.uint8], clock: CpuClock, *, adamw: bool
) -> tuple[nn.Module, int]:
    """Train as lightly's tutorial does, with its batch, temperature and head, on our encoder."""
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead
    from lightly.transforms import SimCLRTransform

    torch.manual_seed(recipe.training.seed)
    encoder = encoder_of(recipe)
    head = SimCLRProjectionHead(encoder.feature_dim, encoder.feature_dim, 128)
    model = torch.nn.Sequential(encoder, head).train()
    criterion = NTXentLoss()
    optimizer: torch.optim.Optimizer
    if adamw:
        peak, warmup = recipe.schedule.learning_rate, recipe.schedule.warmup_fraction or 0.0
        decay = recipe.optimizer.weight_decay
        optimizer = torch.optim.AdamW(model.parameters(), lr=peak, weight_decay=decay)
    else:
        peak, warmup = 0.06, 0.0
        optimizer = torch.optim.SGD(model.parameters(), lr=peak, momentum=0.9, weight_decay=5e-4)
    views = Views(images, SimCLRTransform(input_size=SIDE, gaussian_blur=0.0))
    samples = 0
    while clock.share < 1:
        loader: Any = torch.utils.data.DataLoader(
            views, LIGHTLY_BATCH, shuffle=True, drop_last=True, num_workers=0
        )
        for first, second in loader:
            set_learning_rate(optimizer, rate_at(clock.share, peak, warmup))
            loss = criterion(model(first), model(second))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            samples += len(first)
            if clock.share >= 1:
                break
    return encoder, samples
