"""The card: every kind of origin, whatever an encoder file may say."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from export.encoder_file.card import card_rows, markdown, measure_speed
from export.encoder_file.encoder_file import describe
from tests.conftest import MANY_CHANNELS, TINY_SIZE

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def rows_with(path: Path, **contract: Any) -> dict[str, str]:
    facts = describe(path)
    facts["contract"] |= contract
    return dict(card_rows(facts))


def test_a_run_is_told_with_its_training(exported_encoder: Path) -> None:
    rows = dict(card_rows(describe(exported_encoder)))
    assert rows["made from"].startswith("a run of lookalike train: resnet18, width 0.125")
    assert rows["trained"].startswith("SimCLR, recipe small-cpu: 64 pictures seen, batch 8")
    assert "knn accuracy" in rows["quality"]
    assert rows["in the graph"] == (
        "/ 255, - mean 0.5 0.45 0.4, / std 0.25 0.3 0.2, and the division by the length"
    )


def test_a_run_that_was_stopped_is_told_with_the_steps_of_its_figures(tiny_encoder: Path) -> None:
    recipe: dict[str, Any] = {"name": "small-cpu", "loss": {}}
    recipe["training"] = {"samples": 200_000, "batch_size": 256}
    recipe["loss"] = {"temperature": 0.2}
    state: dict[str, Any] = {"finished": False, "step": 38, "steps": 781, "samples": 9728}
    state |= {"samples_planned": 200_000, "measured_at": {"knn_accuracy": 0, "loss": 30}}
    state |= {"verdict": "stopped at 4.9 %", "verdict_reason": "step 38 of 781"}
    quality = {"knn_accuracy": 0.636, "loss": 5.12, "int8": {}}
    rows = rows_with(tiny_encoder, recipe=recipe, quality=quality, training=state)
    assert rows["trained"] == (
        "SimCLR, recipe small-cpu: 9,728 of 200,000 (stopped at step 38 of 781) pictures seen, "
        "batch 256, temperature 0.2"
    )
    assert rows["quality"] == "knn accuracy 63.6 % at step 0; loss 5.12 at step 30"
    assert rows["verdict"] == "stopped at 4.9 %: step 38 of 781"

    earlier = rows_with(tiny_encoder, recipe=recipe, quality=quality, training={})
    assert "pictures seen not stated (200,000 planned)" in earlier["trained"]
    assert earlier["quality"] == "knn accuracy 63.6 %, loss 5.12 (step not stated)"
    assert "verdict" not in earlier


def test_other_origins_are_told(tiny_encoder: Path) -> None:
    weights = {
        "file": "w.pt",
        "encoder": "resnet50",
        "width": 2,
        "layout": "lightly",
        "stem": "small",
    }
    rows = rows_with(tiny_encoder, recipe={"weights": weights})
    assert rows["made from"] == "resnet50, width 2, stem small in w.pt, as lightly writes it"
    rows = rows_with(tiny_encoder, recipe={"onnx": {"file": "x.onnx", "output": "pool"}})
    assert rows["made from"] == "x.onnx, an ONNX file; features are its pool"
    rows = rows_with(tiny_encoder, recipe={}, quality={}, licence_note="", created_with={})
    assert (
        rows["made from"] == rows["trained"] == rows["license"] == rows["made with"] == "not stated"
    )
    assert rows["quality"] == "nothing was measured"
    stretched = {"size": 8, "resize": "stretch", "resize_to": 8, "resample": "lanczos"}
    rows = rows_with(tiny_encoder, preprocess=stretched)
    assert rows["a picture is"] == "turned as its EXIF says, stretched to 8 px (lanczos)"


def test_the_cost_of_a_smaller_file_is_told(tiny_encoder: Path) -> None:
    int8 = {"target": "avx2", "mean_cosine": 0.99871, "overlap": 0.957, "held_out": 256}
    widths = [{"width": 24, "map_at_r": 0.5}, {"width": 16}, {"width": 8, "map_at_r": 0.4867}]
    projection = {"embedding_dim": 8, "explained": 0.9, "widths": widths, "whiten": True}
    projection |= {"compared_on": 40, "source": "photos"}
    layers = [{"in_float": True}, {"in_float": False}]
    quality = {"int8": int8 | {"layers": layers}, "projection": projection}
    rows = rows_with(tiny_encoder, quality=quality)
    assert rows["int8"] == (
        "for avx2: mean cosine 0.9987 to fp32, 95.7 % of 10 neighbors the same, on 256 pictures; "
        "1 layers in float"
    )
    assert rows["projection"] == (
        "PCA to 8 numbers, whitened, 90.0 % of the variance; "
        "mAP@R 48.7 % with 8, 50.0 % with 24 (40 pictures of photos)"
    )
    rows = rows_with(tiny_encoder, quality={"int8": {"mean_cosine": "x"}, "projection": [1]})
    assert not {"int8", "projection"} & set(rows)


def test_what_a_file_says_cannot_play_tricks(tiny_encoder: Path) -> None:
    recipe = {"encoder": {"name": "\x1b[2J", "width": "wide"}, "training": {}, "loss": {"a": []}}
    rows = rows_with(tiny_encoder, recipe=recipe, licence_note="a\nb" * 1000, quality={"x": "y"})
    assert all(text.isprintable() and len(text) <= 401 for text in rows.values())
    assert rows["quality"] == "nothing was measured"


def test_the_snippet_on_the_card_runs(tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_encoder.parent)
    page = markdown(describe(tiny_encoder))
    (snippet,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    exec(snippet, names)
    assert np.asarray(names["embeddings"]).shape == (1, 24)


def test_the_card_of_an_encoder_of_five_channels(many_channel_encoder: Path) -> None:
    speed = measure_speed(many_channel_encoder)
    assert set(speed["images_per_second"]) == {"1", "32"}
    assert min(speed["images_per_second"].values()) > 0
    rows = dict(card_rows(describe(many_channel_encoder) | {"speed": speed}))
    assert rows["input"] == f"images uint8 [N, {TINY_SIZE}, {TINY_SIZE}, {MANY_CHANNELS}]"
    assert rows["speed here"].endswith(f"/s in batches of 32 (cpu, {speed['threads']} threads)")


def test_the_snippet_takes_five_channels(
    many_channel_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(many_channel_encoder.parent)
    (snippet,) = re.findall(
        r"```python\n(.*?)```", markdown(describe(many_channel_encoder)), re.DOTALL
    )
    names: dict[str, Any] = {}
    exec(snippet, names)
    assert np.asarray(names["embeddings"]).shape == (1, 24)
