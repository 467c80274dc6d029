from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from images.preprocess import PreprocessSpec, preprocess
from training import monitor
from training.cache import decode_source
from training.features import encode
from training.model import build_model
from training.monitor import KnnMonitor
from training.protocols.knn import knn_accuracy
from training.sampling import spread

if TYPE_CHECKING:
    from collections.abc import Callable

    from training.pictures import Pictures
    from training.recipe import Recipe

CPU = torch.device("cpu")


@pytest.fixture
def recipe(make_recipe: Callable[..., Recipe]) -> Recipe:
    return make_recipe("data.mean=[0.4, 0.4, 0.4]")


@pytest.fixture
def pictures(make_source: Callable[..., Any], recipe: Recipe) -> Pictures:
    return decode_source(make_source(40), recipe.data.stored)


def test_without_an_evaluation_set_a_fifth_of_the_pictures_asks_the_others(
    recipe: Recipe, pictures: Pictures
) -> None:
    model = build_model(recipe, CPU)
    seen = np.stack([preprocess(image, recipe.data.evaluation) for image in pictures.images])
    features = encode(model.encoder, seen, mean=recipe.data.mean)
    asks = np.isin(np.arange(40), spread(40, 8))
    expected = knn_accuracy(
        features[asks], pictures.labels[asks], features[~asks], pictures.labels[~asks]
    )
    found = KnnMonitor(recipe.data, pictures, None)
    assert found.possible
    assert found.accuracy(model) == expected


def test_an_evaluation_set_is_matched_by_the_names_of_its_classes(
    recipe: Recipe, pictures: Pictures
) -> None:
    half = dataclasses.replace(pictures, images=pictures.images[:20], labels=pictures.labels[:20])
    seen = np.stack([preprocess(image, recipe.data.evaluation) for image in pictures.images[20:]])
    # "red" is number 1 there and number 3 here; nobody in training is "amber"
    labels = np.where(pictures.labels[20:] == 0, 1, 3)
    labels[0] = 0
    classes = ("amber", "blue", "green", "red")
    evaluation = dataclasses.replace(pictures, images=seen, labels=labels, classes=classes)
    model = build_model(recipe, CPU)
    known = pictures.labels[21:]
    queries = encode(model.encoder, seen[1:], mean=recipe.data.mean)
    stored = [preprocess(image, recipe.data.evaluation) for image in half.images]
    gallery = encode(model.encoder, np.stack(stored), mean=recipe.data.mean)
    expected = knn_accuracy(queries, known, gallery, half.labels)
    assert KnnMonitor(recipe.data, half, evaluation).accuracy(model) == expected


def test_it_is_not_possible_without_two_labels(recipe: Recipe, pictures: Pictures) -> None:
    none = dataclasses.replace(pictures, labels=np.full(40, -1))
    one = dataclasses.replace(pictures, labels=np.zeros(40, np.int64))
    strangers = dataclasses.replace(pictures, classes=("cat", "dog"))
    assert not KnnMonitor(recipe.data, none, None).possible
    assert not KnnMonitor(recipe.data, one, None).possible
    assert not KnnMonitor(recipe.data, pictures, strangers).possible
    assert not KnnMonitor(recipe.data, pictures, none).possible


def test_large_sets_are_thinned_evenly(
    recipe: Recipe, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[tuple[int, int]] = []

    def note(queries: Any, _labels: Any, gallery: Any, gallery_labels: Any) -> float:
        sizes.append((len(queries), len(gallery)))
        assert len(np.unique(gallery_labels)) == 2
        return 0.0

    monkeypatch.setattr(monitor, "knn_accuracy", note)
    model = build_model(recipe, CPU)
    KnnMonitor(recipe.data, pictures, None).accuracy(model)
    monkeypatch.setattr(monitor, "BYTES", 15 * 3 * 16 * 16)
    KnnMonitor(recipe.data, pictures, None).accuracy(model)
    monkeypatch.undo()
    assert sizes == [(8, 32), (3, 12)]


def test_pictures_of_the_right_size_are_not_resized(recipe: Recipe) -> None:
    images = np.zeros((3, 16, 16, 3), np.uint8)
    assert monitor._as_seen(images, recipe.data.evaluation) is images
    assert monitor._as_seen(images, PreprocessSpec(size=8)).shape == (3, 8, 8, 3)
    assert monitor._as_seen(images[:0], PreprocessSpec(size=8)).shape == (0, 8, 8, 3)
