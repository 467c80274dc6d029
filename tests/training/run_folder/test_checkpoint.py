from __future__ import annotations

import dataclasses
import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from base.errors import ArtifactError, LookalikeError
from base.files import sha256_file
from training.optim.optimizers import build_optimizer
from training.recipes.build_model import build_model
from training.run_folder.checkpoint import (
    CHECKPOINT,
    Checkpoint,
    load_checkpoint,
    load_encoder,
    save_checkpoint,
)
from training.run_folder.description import describe

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from training.recipes.recipe import Recipe


@pytest.fixture
def checkpoint(make_recipe: Callable[..., Recipe]) -> Checkpoint:
    recipe = make_recipe("data.mean=[0.1, 0.2, 0.3]", "data.evaluation_resize=18")
    model = build_model(recipe, torch.device("cpu"))
    optimizer = build_optimizer(model, recipe.optimizer)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return Checkpoint(
        encoder=model.encoder.state_dict(),
        head=model.head.state_dict(),
        optimizer=optimizer.state_dict(),
        step=5,
        steps=12,
        elapsed_s=1.5,
        pending={"loss_sum": 2.5, "steps": 1},
        recipe=recipe.to_dict(),
        recipe_digest=recipe.digest,
        source={"name": "x", "pictures": 40, "refused": 0, "classes": ["a"], "digest": "d"},
        evaluation=None,
        quality={"loss": 2.0, "knn_accuracy": 0.5},
        versions={"torch": "2", "torchvision": "0", "lookalike": "0"},
        measured_at={"loss": 4, "knn_accuracy": 0},
        baselines={"start": {"knn_accuracy": 0.5}, "queries": 10},
    )


def test_the_file_holds_exactly_the_keys_of_its_specification(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path, checkpoint)
    content = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    import training.run_folder.checkpoint as module

    block = (module.__doc__ or "").split("Its keys:\n")[1].split("\n\nThere is no random state")[0]
    named = re.findall(r"^    ([a-z_, ]+?)  ", block, re.MULTILINE)
    keys = {key for names in named for key in names.split(", ")}
    assert set(content) == keys
    assert content["format"] == 1
    assert set(content["source"]) == {"name", "pictures", "refused", "classes", "digest"}
    assert sorted(p.name for p in tmp_path.iterdir()) == [CHECKPOINT]


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def test_what_was_saved_is_what_is_loaded(checkpoint: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint)
    loaded = load_checkpoint(tmp_path)
    for field in dataclasses.fields(checkpoint):
        assert same(getattr(checkpoint, field.name), getattr(loaded, field.name)), field.name


def test_a_file_without_the_keys_that_came_later_is_read(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path, checkpoint)
    content = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    del content["measured_at"], content["baselines"]
    torch.save(content, tmp_path / CHECKPOINT)
    loaded = load_checkpoint(tmp_path)
    assert (loaded.measured_at, loaded.baselines) == ({}, {})
    about = describe(tmp_path)
    assert about["verdict"] is None
    assert about["figures"] == "loss 2, knn accuracy 50.0 % (step not stated)"


def test_the_state_of_the_training_goes_with_the_encoder(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path, checkpoint)
    state = load_encoder(tmp_path).training
    reason = "step 5 of 12; so far not measured: no figure was taken after step 0"
    assert state == {
        "finished": False,
        "step": 5,
        "steps": 12,
        "samples": 40,
        "samples_planned": 96,
        "measured_at": {"loss": 4, "knn_accuracy": 0},
        "verdict": "stopped at 41.7 %",
        "verdict_reason": reason,
    }
    about = describe(tmp_path)
    assert about["figures"] == "loss 2 at step 4; knn accuracy 50.0 % at step 0"
    assert (about["verdict"], about["samples_planned"]) == ("stopped at 41.7 %", 96)


@pytest.mark.parametrize("room", [0, 5_000, 300_000])
def test_a_full_disk_is_told_and_keeps_the_checkpoint_before(
    room: int, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    resource = pytest.importorskip("resource")
    save_checkpoint(tmp_path, checkpoint)
    size = (tmp_path / CHECKPOINT).stat().st_size
    assert room < size
    later = dataclasses.replace(checkpoint, step=6)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with pytest.raises(LookalikeError) as caught:
            save_checkpoint(tmp_path, later)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(caught.value) == f"cannot write {tmp_path / CHECKPOINT}: File too large"
    assert load_checkpoint(tmp_path).step == 5
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]
    save_checkpoint(tmp_path, later)
    assert load_checkpoint(tmp_path).step == 6


def test_the_encoder_comes_with_all_it_needs(checkpoint: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint)
    trained = load_encoder(tmp_path)
    assert not trained.module.training
    assert same(dict(trained.module.state_dict()), dict(checkpoint.encoder))
    assert (trained.preprocess.size, trained.preprocess.resize_to) == (16, 18)
    assert trained.mean == (0.1, 0.2, 0.3)
    assert trained.std == (1.0, 1.0, 1.0)
    assert trained.quality == checkpoint.quality
    assert trained.recipe == checkpoint.recipe
    assert trained.sha256 == sha256_file(tmp_path / CHECKPOINT)
    assert trained.module(torch.zeros(2, 3, 16, 16)).shape == (2, trained.module.feature_dim)


def test_a_run_is_described_in_plain_values(checkpoint: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint)
    about = json.loads(json.dumps(describe(tmp_path)))
    assert (about["kind"], about["step"], about["finished"]) == ("run", 5, False)
    assert (about["samples"], about["image_size"]) == (40, 16)
    module = load_encoder(tmp_path).module
    assert about["parameters"] == sum(p.numel() for p in module.parameters())
    assert about["quality"] == checkpoint.quality


def test_a_damaged_checkpoint_is_one_clear_line(checkpoint: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint)
    path = tmp_path / CHECKPOINT
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    flipped = bytearray(whole)
    for at in rng.integers(0, len(whole), 200):
        flipped[at] ^= 0xFF
    one_bit = bytearray(whole)
    one_bit[len(whole) // 2] ^= 1  # amid the weights
    damaged = (
        b"",
        b"hello",
        whole[: len(whole) // 2],
        whole[:-100],
        bytes(flipped),
        bytes(one_bit),
    )
    for content in damaged:
        path.write_bytes(content)
        for read in (load_checkpoint, load_encoder, describe):
            with pytest.raises(ArtifactError, match=r"checkpoint\.pt is damaged") as caught:
                read(tmp_path)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weights": 1}, "not a checkpoint of lookalike train"),
        ([1, 2], "not a checkpoint of lookalike train"),
        ({"format": 2}, "has format 2, this version reads 1: update lookalike"),
        ({"format": 1, "step": 3}, "is damaged: it lacks elapsed_s, encoder"),
    ],
)
def test_an_unknown_file_is_named(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / CHECKPOINT)
    with pytest.raises(ArtifactError, match=message):
        load_checkpoint(tmp_path)


def test_weights_of_another_encoder_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    recipe = {**checkpoint.recipe, "encoder": {**checkpoint.recipe["encoder"], "width": 0.25}}
    save_checkpoint(tmp_path, dataclasses.replace(checkpoint, recipe=recipe))
    with pytest.raises(ArtifactError, match="its weights do not fit its recipe") as caught:
        load_encoder(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"is no run folder: it has no checkpoint\.pt"):
        load_encoder(tmp_path)


def test_a_checkpoint_that_would_run_code_is_not_loaded(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (print, ("boom",))

    torch.save({"format": 1, "step": Bomb()}, tmp_path / CHECKPOINT)
    with pytest.raises(ArtifactError, match="damaged or no checkpoint"):
        load_checkpoint(tmp_path)
