from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from images.pixels.preprocess import preprocess
from training.data.cache import decode_source
from training.data.sampling import spread
from training.models.features import encode
from training.protocols.geometry import effective_rank
from training.protocols.knn import knn_accuracy
from training.recipes.build_model import build_model
from training.report import monitor
from training.report.monitor import Monitor, affordable
from training.report.watched import draw_views

if TYPE_CHECKING:
    from collections.abc import Callable

    from training.data.dataset import ImageDataset
    from training.recipes.recipe import Recipe

CPU = torch.device("cpu")


@pytest.fixture
def recipe(make_recipe: Callable[..., Recipe]) -> Recipe:
    return make_recipe("data.mean=[0.4, 0.4, 0.4]")


@pytest.fixture
def dataset(make_source: Callable[..., Any], recipe: Recipe) -> ImageDataset:
    return decode_source(make_source(40), recipe.data.stored)


def test_without_an_evaluation_set_a_fifth_of_the_images_asks_the_others(
    recipe: Recipe, dataset: ImageDataset
) -> None:
    model = build_model(recipe, CPU)
    seen = np.stack([preprocess(image, recipe.data.evaluation) for image in dataset.images])
    features = encode(model.encoder, seen, mean=recipe.data.mean)
    asks = np.isin(np.arange(40), spread(40, 8))
    expected = knn_accuracy(
        features[asks], dataset.labels[asks], features[~asks], dataset.labels[~asks]
    )
    result = Monitor(recipe, dataset, None)
    assert result.labeled
    assert result.accuracy(model) == expected


def test_an_evaluation_set_is_matched_by_the_names_of_its_classes(
    recipe: Recipe, dataset: ImageDataset
) -> None:
    half = dataclasses.replace(dataset, images=dataset.images[:20], labels=dataset.labels[:20])
    seen = np.stack([preprocess(image, recipe.data.evaluation) for image in dataset.images[20:]])
    # "red" is number 1 there and number 3 here; nobody in training is "amber"
    labels = np.where(dataset.labels[20:] == 0, 1, 3)
    labels[0] = 0
    classes = ("amber", "blue", "green", "red")
    evaluation = dataclasses.replace(dataset, images=seen, labels=labels, classes=classes)
    model = build_model(recipe, CPU)
    expected_labels = dataset.labels[21:]
    queries = encode(model.encoder, seen[1:], mean=recipe.data.mean)
    stored = [preprocess(image, recipe.data.evaluation) for image in half.images]
    gallery = encode(model.encoder, np.stack(stored), mean=recipe.data.mean)
    expected = knn_accuracy(queries, expected_labels, gallery, half.labels)
    assert Monitor(recipe, half, evaluation).accuracy(model) == expected


def test_knn_needs_two_labels(recipe: Recipe, dataset: ImageDataset) -> None:
    none = dataclasses.replace(dataset, labels=np.full(40, -1))
    one = dataclasses.replace(dataset, labels=np.zeros(40, np.int64))
    unrelated = dataclasses.replace(dataset, classes=("cat", "dog"))
    assert not Monitor(recipe, none, None).labeled
    assert not Monitor(recipe, one, None).labeled
    assert not Monitor(recipe, dataset, unrelated).labeled
    assert not Monitor(recipe, dataset, none).labeled


def test_large_sets_are_thinned_evenly(
    recipe: Recipe, dataset: ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[tuple[int, int]] = []

    def note(queries: Any, _labels: Any, gallery: Any, gallery_labels: Any) -> float:
        sizes.append((len(queries), len(gallery)))
        assert len(np.unique(gallery_labels)) == 2
        return 0.0

    monkeypatch.setattr(monitor, "knn_accuracy", note)
    model = build_model(recipe, CPU)
    Monitor(recipe, dataset, None).accuracy(model)
    monkeypatch.setattr(monitor, "BYTES", 15 * 3 * 16 * 16)
    Monitor(recipe, dataset, None).accuracy(model)
    monkeypatch.undo()
    assert sizes == [(8, 32), (3, 12)]


# --- without labels ------------------------------------------------------------------------------


def test_figures_of_images_without_labels(recipe: Recipe, dataset: ImageDataset) -> None:
    model = build_model(recipe, CPU)
    none = dataclasses.replace(dataset, labels=np.full(40, -1), classes=())
    result = Monitor(recipe, none, None).measure(model)
    assert set(result.figures) == {
        "alignment",
        "uniformity",
        "rankme",
        "feature_std",
        "view_recall",
    }
    seen = np.stack([preprocess(image, recipe.data.evaluation) for image in dataset.images])
    features = encode(model.encoder, seen, mean=recipe.data.mean)
    np.testing.assert_allclose(result.features, features, atol=1e-6)
    assert result.figures["rankme"] == effective_rank(features)
    with torch.inference_mode():
        views = torch.from_numpy(draw_views(dataset.images, recipe)).permute(0, 3, 1, 2) / 255
        z = functional.normalize(model.eval()(views))
    expected = float((z[:40] - z[40:]).square().sum(1).mean())
    assert result.figures["alignment"] == pytest.approx(expected, rel=1e-4)
    assert result.alarm is None


def test_the_views_are_the_recipes_and_always_the_same(
    recipe: Recipe, dataset: ImageDataset, make_recipe: Callable[..., Recipe]
) -> None:
    views = draw_views(dataset.images, recipe)
    assert views.shape == (80, 16, 16, 3)
    np.testing.assert_array_equal(views, draw_views(dataset.images, recipe))
    assert np.abs(views[:40].astype(int) - views[40:]).mean() > 10
    off = [f"augmentation.{name}=0.0" for name in ("flip", "jitter_probability", "grayscale")]
    still = make_recipe(
        "augmentation.crop_area=[1.0, 1.0]", "augmentation.crop_aspect=[1.0, 1.0]", *off
    )
    plain = draw_views(dataset.images, still)
    np.testing.assert_array_equal(plain[:40], plain[40:])


def test_an_encoder_of_constant_weights_raises_the_alarm(
    recipe: Recipe, dataset: ImageDataset
) -> None:
    watch = Monitor(recipe, dataset, None)
    model = build_model(recipe, CPU)
    with torch.no_grad():
        for weight in model.encoder.parameters():
            weight.fill_(0.01)
    alarm = watch.measure(model).alarm
    assert alarm is not None
    assert "has collapsed" in alarm
    assert "lower schedule.learning_rate (now 0.002)" in alarm


def test_the_alarm_names_a_temperature_out_of_the_usual(
    make_recipe: Callable[..., Recipe], dataset: ImageDataset
) -> None:
    recipe = make_recipe("loss.temperature=40.0")
    watch = Monitor(recipe, dataset, None)
    model = build_model(recipe, CPU)
    model.encoder.load_state_dict({k: v * 0 for k, v in model.encoder.state_dict().items()})
    alarm = watch.measure(model).alarm
    assert alarm is not None
    assert "loss.temperature between 0.05 and 1 (now 40)" in alarm


@pytest.mark.parametrize("samples", [10_000, 100_000, 400_000, 4_000_000])
def test_measuring_stays_within_its_share_of_a_run(
    make_recipe: Callable[..., Recipe], samples: int
) -> None:
    recipe = make_recipe(f"training.samples={samples}", "training.evaluations=10")
    watched, others = affordable(recipe, 50_000)
    share = 11 * (3 * watched + others) / (6 * samples)
    assert share <= 0.021 or (watched, others) == (64, 500)
    assert 64 <= watched <= 512
    assert 500 <= others <= 5000
