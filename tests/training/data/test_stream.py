"""Images that are decoded by worker processes while the run trains."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from base.errors import SourceError
from images.pixels.preprocess import PreprocessSpec
from tests.training.runs import Interrupt, assert_same_run
from training.data.cache import Form, decode_source
from training.data.order import Order
from training.data.stream import open_stream
from training.run_folder.checkpoint import load_checkpoint
from training.train import train

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from training.recipes.recipe import Recipe

FORM = Form(spec=PreprocessSpec(size=16), whole=True)
CPU = torch.device("cpu")


@pytest.mark.parametrize("shapes", ["alike", "different"])
def test_streamed_and_cached_images_train_the_same(
    shapes: str,
    make_source: Callable[..., Any],
    make_recipe: Callable[..., Recipe],
    tmp_path: Path,
) -> None:
    source = make_source()
    if shapes == "different":
        for number, content in enumerate(source.contents):
            source.contents[number] = content[: 14 + number % 10, : 24 - number % 7]
    train(source, make_recipe(), tmp_path / "cached")
    streamed = make_recipe("data.cache=stream")
    train(source, streamed, tmp_path / "streamed", progress=Interrupt(4))
    assert load_checkpoint(tmp_path / "streamed").step == 4
    train(source, streamed, tmp_path / "streamed", resume=True)
    assert_same_run(tmp_path / "cached", tmp_path / "streamed")


def test_a_bad_image_is_listed_and_the_next_one_stands_in(
    make_source: Callable[..., Any], make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    source = make_source()
    good = list(source.contents)
    source.contents[39] = source.contents[4] = source.contents[5] = b"no picture"
    recipe = make_recipe("data.cache=stream")
    result = train(source, recipe, tmp_path / "bad")
    assert result.finished
    assert sorted(refusal.key for refusal in result.refused) == ["0004", "0005", "0039"]
    listed = (tmp_path / "bad" / "refused.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["key"] for line in listed) == ["0004", "0005", "0039"]
    good[39], good[4], good[5] = good[0], good[6], good[6]
    replaced = dataclasses.replace(source, contents=good)
    train(replaced, recipe, tmp_path / "replaced")
    assert_same_run(tmp_path / "bad", tmp_path / "replaced")


def test_a_batch_is_that_of_the_cache(make_source: Callable[..., Any]) -> None:
    source, own = make_source(12), np.array([1, 2])
    order = Order(12, 4, 0, own)
    source.contents[3] = source.contents[3][:9]
    cached = decode_source(source, FORM.spec, whole=True)
    batches = open_stream(source, FORM).batches(order, CPU)
    for step in (0, 1, 5):
        pixels, height, width = batches(step)
        assert isinstance(height, torch.Tensor)
        assert isinstance(width, torch.Tensor)
        expected = order(step)[own]
        np.testing.assert_array_equal(pixels, cached.canvas(expected))
        assert cached.sizes is not None
        assert torch.stack([height, width], 1)[own].tolist() == cached.sizes[expected].tolist()
        assert height[0] == 1  # not this process's


def test_squares_are_those_of_the_cache(make_source: Callable[..., Any]) -> None:
    source, spec = make_source(12), PreprocessSpec(size=8)
    streamed, cached = open_stream(source, FORM), decode_source(source, FORM.spec, whole=True)
    np.testing.assert_array_equal(streamed.squares([3, 1], spec), cached.squares([3, 1], spec))
    source.contents[3] = b""
    streamed = open_stream(source, FORM)
    np.testing.assert_array_equal(streamed.squares([3], spec), cached.squares([4], spec))
    assert [refusal.key for refusal in streamed.refusals()] == ["0003"]


def test_a_source_without_one_usable_image_is_refused(make_source: Callable[..., Any]) -> None:
    source = dataclasses.replace(make_source(2), contents=[b"no picture"] * 2)
    with pytest.raises(SourceError, match="no usable picture in arrays"):
        open_stream(source, FORM)[0]
    with pytest.raises(SourceError, match="arrays holds no pictures"):
        open_stream(make_source(0), FORM)
