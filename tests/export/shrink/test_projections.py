"""Projections of features: what they compute, which one is taken, and what cannot be fitted."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from base.errors import UsageError
from export.cli.cli import app
from export.convert.onnx_graph import Draft
from export.encoder_file.card import card_rows
from export.encoder_file.encoder_file import describe, open_encoder, read_contract
from export.evaluate.evaluated_model import open_subject
from export.shrink import projections
from export.shrink.append_projection import append_projection
from export.shrink.choose_projection import choose_projection
from export.shrink.finish import Finish, finish, read_draft
from export.shrink.fitting_features import FittingFeatures, embed_source
from export.shrink.projections import RIDGE, Fitter, Projection, middles, unit_rows
from export.verify.generated_images import generated_images
from export.verify.verify import verify
from images.sources.sources import open_source
from training.data.dataset import NO_LABEL

IMAGES = generated_images(66, 32)[2:]
DIM, CLASSES = 24, 6


def clusters(count: int, *, noise: float = 0.8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return features around a common offset, of classes that noise nearly hides, and labels."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, count)
    centers = random.normal(size=(CLASSES, DIM))
    rows = centers[labels] + noise * random.normal(size=(count, DIM)) * np.linspace(0.2, 2, DIM)
    return (rows + 3).astype(np.float32), labels


def fitting(features: np.ndarray, labels: np.ndarray) -> FittingFeatures:
    crops = tuple(features[:30] + np.float32(shift) for shift in (0, 0.01))
    return FittingFeatures(
        features=features,
        labels=labels,
        crops=(crops[0], crops[1]),
        refused=(),
        thinned_from=len(features),
    )


def test_neighbors_is_the_ridge_regression_on_the_nearest_rows() -> None:
    unit = unit_rows(clusters(60)[0])
    projection = Fitter(unit).neighbors(5)
    rows = unit_rows(unit - unit.mean(0))
    nearest = [np.argsort(-rows @ row)[:5] for row in rows]
    targets = np.stack([rows[five].mean(0) for five in nearest])
    weights = np.linalg.inv(rows.T @ rows + RIDGE * np.eye(DIM)) @ rows.T @ targets
    expected = (unit - unit.mean(0)) @ weights
    np.testing.assert_allclose(projection(unit), expected, atol=1e-5)


def test_nearest_rows_do_not_depend_on_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = unit_rows(np.random.default_rng(0).normal(size=(50, 8)))
    expected = middles(rows, 4)
    monkeypatch.setattr(projections, "BLOCK", 7 * 50)
    np.testing.assert_allclose(middles(rows, 4), expected, atol=1e-12)


@pytest.mark.parametrize(
    "fit",
    [Fitter.center, Fitter.neighbors, partial(Fitter.neighbors, width=7)],
    ids=["center", "neighbors", "neighbors in 7 numbers"],
)
def test_the_graph_projects_as_numpy_does(
    exported_encoder: Path, tmp_path: Path, fit: Callable[[Fitter], Projection]
) -> None:
    features, _ = open_encoder(exported_encoder).encode_with_features(IMAGES)
    projection = fit(Fitter(unit_rows(features)))  # 64 images in 64 dimensions
    draft = read_draft(exported_encoder)
    contract = replace(draft.contract, embedding_dim=projection.width)
    model = append_projection(draft.model, projection.weights, projection.shift)
    encoder = open_encoder(Draft(model=model, contract=contract).write(tmp_path / "p.onnx"))
    same_features, embeddings = encoder.encode_with_features(IMAGES)
    np.testing.assert_array_equal(same_features, features)
    np.testing.assert_allclose(embeddings, unit_rows(projection(unit_rows(features))), atol=1e-4)


def test_labels_choose_what_gathers_the_classes() -> None:
    features, labels = clusters(900)
    selected, report = choose_projection(fitting(features, labels), "auto")
    assert selected is not None
    assert report.kind == selected.kind
    by_name = {one.name: one for one in report.candidates}
    winners = [one for one in report.candidates if one.wins]
    best = max(winners, key=lambda one: one.map_at_r or 0)
    assert by_name[report.name] is best
    assert best.gain_interval is not None
    assert best.gain_interval[0] > 0
    assert by_name["none"].gain == 0
    assert {"center", "neighbors 5", "neighbors 10", "neighbors 20"} <= set(by_name)
    assert report.fit_sha256 == selected.sha256


def test_nothing_is_taken_where_labels_mean_nothing() -> None:
    random = np.random.default_rng(1)
    features = random.normal(size=(400, DIM)).astype(np.float32)
    selected, report = choose_projection(fitting(features, random.integers(0, 4, 400)), "auto")
    assert selected is None
    assert report.name == "none"
    assert "no projection gains" in report.reason


@pytest.mark.parametrize("labels", [np.full(200, NO_LABEL), np.zeros(200, np.int64)])
def test_without_classes_the_mean_is_removed(labels: np.ndarray) -> None:
    selected, report = choose_projection(fitting(clusters(200)[0], labels), "auto")
    assert selected is not None
    assert (selected.kind, selected.weights, report.queries) == ("center", None, 0)
    assert report.candidates[0].map_at_r is None
    selected, report = choose_projection(fitting(clusters(200)[0], labels), "neighbors", width=8)
    assert selected is not None
    assert (selected.kind, selected.width) == ("neighbors", 8)
    assert "worse for finding near-duplicates" in report.note


def test_what_cannot_be_fitted_is_told() -> None:
    features, labels = clusters(200)
    with pytest.raises(UsageError, match="40 pictures are too few to fit a projection: give"):
        choose_projection(fitting(features[:40], labels[:40]), "auto")
    with pytest.raises(UsageError, match="features of all these pictures are the same"):
        choose_projection(fitting(np.ones_like(features), labels), "auto")
    broken = features.copy()
    broken[3, 0] = np.nan
    with pytest.raises(UsageError, match="1 of 200 pictures are not finite"):
        choose_projection(fitting(broken, labels), "center")
    with pytest.raises(UsageError, match="embedding_dim 25 must lie between"):
        choose_projection(fitting(features, labels), "neighbors", width=25)


def test_fewer_images_than_dimensions_can_be_fitted() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(80, 300)).astype(np.float32)
    selected, _ = choose_projection(fitting(features, np.arange(80) % 4), "neighbors")
    assert selected is not None
    assert np.isfinite(selected(unit_rows(features))).all()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = generated_images(80, 32)
    path = tmp_path_factory.mktemp("fit") / "photos.npz"
    np.savez(path, images=images)
    return path


def test_images_are_embedded_while_they_are_read(exported_encoder: Path, photos: Path) -> None:
    fitted = embed_source(read_draft(exported_encoder), open_source(photos))
    expected, _ = open_encoder(exported_encoder).encode_with_features(generated_images(80, 32))
    np.testing.assert_allclose(fitted.features, expected, atol=1e-4)
    assert (fitted.labels == NO_LABEL).all()
    assert [len(side) for side in fitted.crops] == [16, 16]


def test_a_projection_of_full_width_is_verified_and_evaluated(
    exported_encoder: Path, tiny_run: Path, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "centered.onnx"
    command = ["export", str(tiny_run), "--out", str(out), "--fit", str(photos)]
    result = CliRunner().invoke(app, [*command, "--json"])
    assert result.exit_code == 0, result.output
    assert "projection: center (without labels only the mean is removed)" in result.stderr
    contract = read_contract(out)
    assert contract.embedding_dim == contract.feature_dim
    report = contract.quality["projection"]
    assert (report["kind"], report["queries"]) == ("center", 0)
    assert report == json.loads(json.dumps(report))
    assert (
        "center, fitted on 64 pictures of photos.npz"
        in dict(card_rows(describe(out)))["projection"]
    )
    assert verify(out, tiny_run).passed
    assert verify(out, exported_encoder).passed
    assert verify(out, out).figures["least cosine"] > 0.9999
    assert open_subject(out, "cpu").spaces == ("embeddings", "features")
    with pytest.raises(UsageError, match="projected already"):
        finish(read_draft(out), Finish(fit=open_source(photos)))


def test_int8_keeps_a_projection(exported_encoder: Path, photos: Path, tmp_path: Path) -> None:
    source = open_source(photos)
    todo = Finish(
        fit=source, projection="neighbors", precision="int8", calibrate=source, allow_loss=True
    )
    finished = finish(read_draft(exported_encoder), todo)
    encoder = open_encoder(finished.draft.write(tmp_path / "int8.onnx"))
    assert encoder.contract.quality["projection"]["nearest"] == 5
    assert encoder.contract.precision == "int8"
    lengths = np.linalg.norm(encoder.encode(generated_images(8, 32)), axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-5)


def test_options_that_do_not_go_together(photos: Path) -> None:
    source = open_source(photos)
    with pytest.raises(UsageError, match="--projection neighbors needs --fit"):
        Finish(projection="neighbors")
    with pytest.raises(UsageError, match="--projection pca needs --embedding-dim"):
        Finish(projection="pca", fit=source)
    with pytest.raises(UsageError, match="--projection center keeps all numbers"):
        Finish(projection="center", fit=source, embedding_dim=8)
    with pytest.raises(UsageError, match="exclude each other"):
        Finish(projection="neighbors", fit=source, embedding_dim=8, whiten=True)
    assert Finish(projection="none", fit=source).does_nothing
