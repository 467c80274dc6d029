"""int8, fp16 and shorter embeddings: still the same encoder, or refused."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from typer.testing import CliRunner

from base.errors import UsageError
from export.cli.cli import app
from export.convert.onnx_graph import Draft
from export.encoder_file.encoder_file import open_encoder, read_contract
from export.shrink.finish import Finish, read_draft
from export.shrink.fp16 import halve_draft
from export.shrink.pca import Covariance, principal_directions, reduce_draft
from export.shrink.projections import unit_rows
from export.shrink.quantize import LossTooGreat, QualityGate, embed, fewest, quantize_draft
from export.shrink.quantize_graph import prepare, resolve_target, units_of
from export.verify.generated_images import generated_images
from export.verify.measures import cosines, neighbor_overlap
from images.sources.sources import open_source
from tests.conftest import MANY_CHANNELS, TINY_SIZE

IMAGES = generated_images(66, 32)[2:]


@pytest.fixture(scope="module")
def draft(exported_encoder: Path) -> Draft:
    return read_draft(exported_encoder)


# --- int8 ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def int8(draft: Draft) -> tuple[Draft, Any]:
    return quantize_draft(draft, IMAGES, target="avx2")


def test_int8_is_the_same_encoder_and_says_what_it_cost(
    draft: Draft, int8: tuple[Draft, Any], tmp_path: Path
) -> None:
    quantized, report = int8
    embeddings, expected = embed(quantized.model, IMAGES), embed(draft.model, IMAGES)
    assert 0.99 < cosines(embeddings, expected).mean() < 1
    assert neighbor_overlap(embeddings, expected, 10) > 0.85
    assert report.passed
    assert report.calibration + report.held_out == len(IMAGES)
    encoder = open_encoder(quantized.write(tmp_path / "int8.onnx"))
    assert encoder.contract.precision == "int8"
    assert encoder.contract.quality["int8"] == json.loads(json.dumps(report.to_dict()))
    assert encoder.contract.quality["knn_accuracy"] == draft.contract.quality["knn_accuracy"]
    onnx.checker.check_model(quantized.model, full_check=True)


def test_weights_keep_to_seven_bits_where_products_saturate(
    tiny_encoder: Path, int8: tuple[Draft, Any]
) -> None:
    def largest(model: onnx.ModelProto) -> int:
        arrays = [numpy_helper.to_array(value) for value in model.graph.initializer]
        return max(
            int(np.abs(a.astype(int)).max()) for a in arrays if a.dtype == np.int8 and a.ndim
        )

    assert largest(int8[0].model) <= 64
    tiny = read_draft(tiny_encoder)
    wide, _ = quantize_draft(tiny, IMAGES, target="vnni", allow_loss=True)
    assert largest(wide.model) > 100


def test_every_layer_is_tried(draft: Draft, int8: tuple[Draft, Any]) -> None:
    kinds = Counter(layer.kind for layer in int8[1].layers)
    assert kinds == {"Conv": 20, "Add": 8}
    assert all(0 <= layer.cost < 0.1 for layer in int8[1].layers)
    assert max(layer.cost for layer in int8[1].layers) > 0
    units = units_of(prepare(draft.model).graph)
    nodes = [name for unit in units for name in unit.nodes]
    assert len(nodes) == len(set(nodes))


def test_a_shut_gate_refuses_unless_the_loss_is_allowed(tiny_encoder: Path) -> None:
    draft = read_draft(tiny_encoder)
    shut = QualityGate(min_cosine=1.1)
    with pytest.raises(LossTooGreat, match=r"mean cosine .*must be >= 1\.1.*--allow-loss"):
        quantize_draft(draft, IMAGES, gate=shut)
    _, report = quantize_draft(draft, IMAGES, gate=shut, allow_loss=True)
    assert not report.passed
    assert not any(layer.in_float for layer in report.layers)


@pytest.mark.parametrize("needed", [0, 1, 2, 3, 5, 8])
def test_the_search_keeps_as_few_layers_in_float_as_it_must(int8: Any, needed: int) -> None:
    def attempt(count: int) -> Any:
        tried.append(count)
        return count, replace(int8[1], passed=count >= needed)

    tried: list[int] = []
    assert fewest(attempt, 8)[0] == needed
    assert len(tried) <= 7
    assert fewest(attempt, needed - 1)[0] == 0 or needed == 0


def test_a_layer_that_does_not_bear_it_stays_in_float(tiny_encoder: Path) -> None:
    draft = read_draft(tiny_encoder)
    weights = {value.name: value for value in draft.model.graph.initializer}
    first, second = (numpy_helper.to_array(weights[name]).copy() for name in ("conv1", "conv2"))
    first[0] /= 3000  # as before in float; in 8 bits one channel's weights drown the others'
    second[:, 0] *= 3000
    for name, values in (("conv1", first), ("conv2", second)):
        weights[name].CopyFrom(numpy_helper.from_array(values, name))
    _, all_in_int8 = quantize_draft(draft, IMAGES, allow_loss=True, gate=QualityGate(min_cosine=2))
    lenient = QualityGate(min_cosine=(1 + 3 * all_in_int8.mean_cosine) / 4, min_overlap=0)
    _, report = quantize_draft(draft, IMAGES, gate=lenient)
    assert report.passed
    assert report.mean_cosine > all_in_int8.mean_cosine
    in_float = [layer for layer in report.layers if layer.in_float]
    others = [layer for layer in report.layers if not layer.in_float]
    assert len(in_float) == len(others) == 1
    assert in_float[0].cost > 10 * others[0].cost


def test_the_target_comes_from_the_cpu(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("flags : sse2 avx2 avx512_vnni\n")
    assert resolve_target("auto", info) == "vnni"
    info.write_text("flags : sse2 avx2\n")
    assert resolve_target("auto", info) == resolve_target("auto", tmp_path / "none") == "avx2"
    assert resolve_target("vnni", info) == "vnni"


def test_an_encoder_of_five_channels_is_quantized(
    many_channel_encoder: Path, tmp_path: Path
) -> None:
    images = generated_images(66, TINY_SIZE, channels=MANY_CHANNELS)[2:]
    draft = read_draft(many_channel_encoder)
    quantized, report = quantize_draft(draft, images, target="avx2")
    assert report.passed
    encoder = open_encoder(quantized.write(tmp_path / "int8.onnx"))
    assert encoder.preprocess.channels == MANY_CHANNELS
    assert cosines(encoder.encode(images), embed(draft.model, images)).mean() > 0.99


def test_too_few_images_are_told(draft: Draft) -> None:
    with pytest.raises(UsageError, match="31 pictures are too few to calibrate int8"):
        quantize_draft(draft, IMAGES[:31])


# --- fp16 ----------------------------------------------------------------------------------------


def test_fp16_halves_the_file_and_keeps_its_ends(draft: Draft, tmp_path: Path) -> None:
    half = halve_draft(draft)
    path, whole = half.write(tmp_path / "half.onnx"), draft.write(tmp_path / "whole.onnx")
    assert path.stat().st_size < 0.65 * whole.stat().st_size
    encoder = open_encoder(path)
    assert encoder.contract.precision == "fp16"
    embeddings = encoder.encode(IMAGES)
    assert embeddings.dtype == np.float32
    assert cosines(embeddings, open_encoder(whole).encode(IMAGES)).min() > 0.9999
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)


# --- shorter embeddings --------------------------------------------------------------------------


def test_directions_against_numpy() -> None:
    rows = np.random.default_rng(0).normal(size=(300, 6)) @ np.diag([5, 4, 3, 2, 1, 0.5])
    covariance = Covariance(6)
    for batch in np.array_split(rows, 7):
        covariance.add(batch)
    np.testing.assert_allclose(covariance.matrix, np.cov(rows.T, bias=True), atol=1e-12)
    basis = principal_directions(covariance)
    weights, shift = basis.projection(3, whiten=True)
    projected = rows @ weights + shift
    np.testing.assert_allclose(projected.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(np.cov(projected.T, bias=True), np.eye(3), atol=1e-9)
    _, _, right = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    np.testing.assert_allclose(np.abs((right @ basis.directions).diagonal()), 1, atol=1e-9)


def test_the_graph_projects_as_numpy_does(draft: Draft, tmp_path: Path) -> None:
    features, _ = open_encoder(draft.write(tmp_path / "a.onnx")).encode_with_features(IMAGES)
    labels = np.arange(len(IMAGES)) % 3
    short, report = reduce_draft(draft, features, labels, 8, source="drawn")
    encoder = open_encoder(short.write(tmp_path / "b.onnx"))
    same_features, embeddings = encoder.encode_with_features(IMAGES)
    np.testing.assert_array_equal(same_features, features)
    assert embeddings.shape == (len(IMAGES), 8)
    basis_rows = unit_rows(features[np.arange(len(features)) % 5 != 0])
    centered = unit_rows(features) - basis_rows.mean(0)
    _, _, right = np.linalg.svd(basis_rows - basis_rows.mean(0), full_matrices=False)
    expected = unit_rows(centered @ right[:8].T)
    np.testing.assert_allclose(embeddings @ embeddings.T, expected @ expected.T, atol=1e-4)
    assert [width.width for width in report.widths] == [64, 32, 16, 8]
    assert report.widths[0].overlap == 1
    assert 0 < report.explained == report.widths[-1].explained < 1
    assert encoder.contract.quality["projection"]["fit_sha256"] == report.fit_sha256
    assert (encoder.contract.feature_dim, encoder.contract.embedding_dim) == (64, 8)


def test_a_projection_that_cannot_be_is_told(draft: Draft) -> None:
    features = np.random.default_rng(0).normal(size=(20, 64)).astype(np.float32)
    labels = np.full(20, -1)
    with pytest.raises(UsageError, match="embedding_dim 65 must lie between 1 and the 64"):
        reduce_draft(draft, features, labels, 65)
    with pytest.raises(UsageError, match="20 pictures are too few to fit 16 directions"):
        reduce_draft(draft, features, labels, 16)
    once, report = reduce_draft(draft, features, labels, 4)
    assert report.widths[0].map_at_r is None
    with pytest.raises(UsageError, match="projected already"):
        reduce_draft(once, features, labels, 4)


def test_whitening_stops_at_the_rank_of_the_features(draft: Draft) -> None:
    random = np.random.default_rng(0)
    features = (random.normal(size=(200, 6)) @ random.normal(size=(6, 64))).astype(np.float32)
    labels = np.full(200, -1)
    with pytest.raises(UsageError, match=r"have rank 6, .*; take at most 6"):
        reduce_draft(draft, features, labels, 7, whiten=True)
    whitened, _ = reduce_draft(draft, features, labels, 6, whiten=True)
    (weights,) = [v for v in whitened.model.graph.initializer if v.name == "projection"]
    assert np.abs(numpy_helper.to_array(weights)).max() < 1e4
    reduce_draft(draft, features, labels, 7)  # without whitening nothing is divided by


def test_a_third_of_the_images_calibrates_and_the_rest_decides(int8: tuple[Draft, Any]) -> None:
    assert (int8[1].calibration, int8[1].held_out) == (21, 43)


# --- the command ---------------------------------------------------------------------------------


def test_the_command_does_all_at_once(
    tiny_encoder: Path, image_folder: Path, tmp_path: Path
) -> None:
    graph, out = tmp_path / "theirs.onnx", tmp_path / "encoder.onnx"
    onnx.save(read_draft(tiny_encoder).model, graph)
    options = f"--precision int8 --calibrate {image_folder} --int8-target avx2 --min-overlap 0.5"
    more = f"--embedding-dim 8 --fit {image_folder} --whiten --output features --json"
    subject = ["export", "--onnx", str(graph), "--out", str(out)]
    arguments = [*subject, *options.split(), *more.split()]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "32 x 32 px to 8 numbers, int8, opset 20" in result.stdout
    assert "int8 for avx2" in result.stderr
    assert "Embeddings of 8" in result.stderr
    contract = read_contract(out)
    assert (contract.precision, contract.embedding_dim) == ("int8", 8)
    assert {"int8", "projection"} <= set(contract.quality)
    before = out.read_bytes()
    result = CliRunner().invoke(app, [*arguments, "--min-cosine", "1.5"])
    assert isinstance(result.exception, LossTooGreat)
    assert out.read_bytes() == before


def test_options_that_need_one_another(image_folder: Path) -> None:
    source = open_source(image_folder)
    with pytest.raises(UsageError, match="--precision int8 and --calibrate"):
        Finish(precision="int8")
    with pytest.raises(UsageError, match="--precision int8 and --calibrate"):
        Finish(calibrate=source)
    with pytest.raises(UsageError, match="--embedding-dim E needs --fit"):
        Finish(embedding_dim=8)
    with pytest.raises(UsageError, match="--whiten needs"):
        Finish(whiten=True)
