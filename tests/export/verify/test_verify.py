"""`verify` passes what is the same encoder and fails everything else."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from export.encoder_file.encoder_file import read_contract, write_encoder_file
from export.verify.checks import Thresholds
from export.verify.generated_images import generated_images
from export.verify.measures import cosines, neighbor_overlap, relative_error
from export.verify.verify import verify
from images.sources.sources import open_source
from tests.conftest import tiny_contract, tiny_graph
from training.run_folder.checkpoint import load_checkpoint, save_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from export.verify.verify import Verification


def failed(outcome: Verification) -> set[str]:
    assert outcome.passed == all(check.passed for check in outcome.checks)
    return {check.name for check in outcome.checks if not check.passed}


def value_of(outcome: Verification, name: str) -> float:
    (value,) = [check.value for check in outcome.checks if check.name == name]
    assert isinstance(value, float)
    return value


# --- the same encoder ----------------------------------------------------------------------------


def test_an_export_passes_on_real_images(
    exported_encoder: Path, tiny_run: Path, image_folder: Path
) -> None:
    outcome = verify(exported_encoder, tiny_run, open_source(image_folder))
    assert failed(outcome) == set()
    assert outcome.count == 40
    assert outcome.compared_on == f"pictures of {image_folder}"
    assert {check.name for check in outcome.checks} == {
        "checkpoint",
        "preprocessing",
        "features",
        "embeddings",
        "relative error",
        "least cosine",
        "mean cosine",
        "overlap@10",
        "batch",
        "length",
    }
    assert 0 < value_of(outcome, "relative error") < 1e-5


def test_an_export_passes_on_generated_images(exported_encoder: Path, tiny_run: Path) -> None:
    outcome = verify(exported_encoder, tiny_run)
    assert failed(outcome) == set()
    assert (outcome.count, outcome.compared_on) == (64, "generated pictures")


def test_a_file_alone_is_checked_by_itself(tiny_encoder: Path) -> None:
    outcome = verify(tiny_encoder)
    assert outcome.run is None
    assert {check.name for check in outcome.checks} == {"batch", "length"}
    assert outcome.passed


def test_a_limit_is_kept_and_refused_images_are_told(
    exported_encoder: Path, tiny_run: Path, tmp_path: Path, image_bytes: bytes
) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (tmp_path / name).write_bytes(image_bytes)
    (tmp_path / "d.jpg").write_bytes(b"no picture")
    outcome = verify(exported_encoder, tiny_run, open_source(tmp_path))
    assert (outcome.count, [refusal.key for refusal in outcome.refused]) == (3, ["d.jpg"])
    assert outcome.passed
    assert outcome.to_dict()["refused"] == 1
    (tmp_path / "d.jpg").unlink()
    single = verify(exported_encoder, tiny_run, open_source(tmp_path), limit=1)
    assert (single.count, single.passed) == (1, True)


def test_thresholds_decide(exported_encoder: Path, tiny_run: Path) -> None:
    strict = Thresholds(max_relative_error=1e-12)
    assert "relative error" in failed(verify(exported_encoder, tiny_run, thresholds=strict))
    strict = Thresholds(min_cosine=1.1, min_overlap=1.1)
    outcome = verify(exported_encoder, tiny_run, thresholds=strict)
    assert failed(outcome) == {"least cosine", "mean cosine", "overlap@10"}


# --- tampered files ------------------------------------------------------------------------------


def tampered(path: Path, out: Path, change: Callable[[onnx.GraphProto], None]) -> Path:
    """A copy of an encoder file with another graph and the same metadata."""
    model = onnx.load(path)
    change(model.graph)
    write_encoder_file(model, read_contract(path), out / "tampered.onnx")
    return out / "tampered.onnx"


def weights(graph: onnx.GraphProto, rank: int) -> onnx.TensorProto:
    tensors: list[onnx.TensorProto] = [v for v in graph.initializer if len(v.dims) == rank]
    return tensors[0]


def scale(tensor: onnx.TensorProto, factor: float) -> None:
    scaled = numpy_helper.to_array(tensor) * np.float32(factor)
    tensor.CopyFrom(numpy_helper.from_array(scaled, tensor.name))


def one_percent_more(graph: onnx.GraphProto) -> None:
    scale(weights(graph, 4), 1.01)


def one_weight_off(graph: onnx.GraphProto) -> None:
    values = numpy_helper.to_array(weights(graph, 4)).copy()
    values[0, 0, 0, 0] += np.abs(values).max()
    weights(graph, 4).CopyFrom(numpy_helper.from_array(values, weights(graph, 4).name))


def one_gray_level_off(graph: onnx.GraphProto) -> None:
    offset = next(value for value in graph.initializer if value.name == "offset")
    values = numpy_helper.to_array(offset) + np.float32(1)
    offset.CopyFrom(numpy_helper.from_array(values, offset.name))


def not_a_number(graph: onnx.GraphProto) -> None:
    scale(weights(graph, 4), float("nan"))


@pytest.mark.parametrize(
    "change", [one_percent_more, one_weight_off, one_gray_level_off, not_a_number]
)
def test_tampered_weights_fail(
    exported_encoder: Path,
    tiny_run: Path,
    tmp_path: Path,
    change: Callable[[onnx.GraphProto], None],
) -> None:
    outcome = verify(tampered(exported_encoder, tmp_path, change), tiny_run)
    assert "relative error" in failed(outcome)
    assert "checkpoint" not in failed(outcome)  # it still names the right one: only figures tell


def test_embeddings_of_another_length_fail(exported_encoder: Path, tmp_path: Path) -> None:
    def double(graph: onnx.GraphProto) -> None:
        graph.initializer.append(numpy_helper.from_array(np.array(2, np.float32), "two"))
        last = next(node for node in graph.node if "embeddings" in node.output)
        last.output[0] = "single"
        graph.node.append(helper.make_node("Mul", ["single", "two"], ["embeddings"]))

    assert failed(verify(tampered(exported_encoder, tmp_path, double))) == {"length"}


def test_rows_that_depend_on_their_batch_fail(tmp_path: Path) -> None:
    model = tiny_graph()
    axis = numpy_helper.from_array(np.array([0], np.int64), "axis")
    model.graph.initializer.append(axis)
    model.graph.node[2].input[1] = "batch_mean"  # centered = planes - their mean over the batch
    mean = helper.make_node("ReduceMean", ["planes", "axis"], ["batch_mean"], keepdims=1)
    model.graph.node.insert(2, mean)
    write_encoder_file(model, tiny_contract(), tmp_path / "encoder.onnx")
    assert "batch" in failed(verify(tmp_path / "encoder.onnx"))


def test_features_without_length_are_allowed(tmp_path: Path) -> None:
    model = tiny_graph()
    for value in model.graph.initializer:
        if value.name == "conv2":
            scale(value, 0.0)
    write_encoder_file(model, tiny_contract(), tmp_path / "encoder.onnx")
    assert verify(tmp_path / "encoder.onnx").passed


# --- other runs ----------------------------------------------------------------------------------


def other_run(run: Path, out: Path, **changes: Any) -> Path:
    """A run folder whose checkpoint differs from that of `run`."""
    save_checkpoint(out, replace(load_checkpoint(run), **changes))
    return out


def test_another_runs_weights_fail(exported_encoder: Path, tiny_run: Path, tmp_path: Path) -> None:
    encoder = load_checkpoint(tiny_run).encoder
    encoder["conv1.weight"] = encoder["conv1.weight"].flip(0)
    outcome = verify(exported_encoder, other_run(tiny_run, tmp_path, encoder=encoder))
    assert {"checkpoint", "relative error", "least cosine"} <= failed(outcome)


def test_the_same_weights_in_another_checkpoint_fail(
    exported_encoder: Path, tiny_run: Path, tmp_path: Path
) -> None:
    outcome = verify(exported_encoder, other_run(tiny_run, tmp_path, elapsed_s=1e6))
    assert failed(outcome) == {"checkpoint"}


def test_a_run_of_another_preparation_fails(
    exported_encoder: Path, tiny_run: Path, tmp_path: Path
) -> None:
    recipe = load_checkpoint(tiny_run).recipe
    recipe["data"] = recipe["data"] | {"resample": "bilinear"}
    outcome = verify(exported_encoder, other_run(tiny_run, tmp_path, recipe=recipe))
    assert failed(outcome) == {"checkpoint", "preprocessing"}


def test_a_run_of_another_width_fails_without_figures(tiny_encoder: Path, tiny_run: Path) -> None:
    outcome = verify(tiny_encoder, tiny_run)
    assert {"checkpoint", "features", "embeddings"} <= failed(outcome)
    assert "relative error" not in {check.name for check in outcome.checks}


# --- the measures --------------------------------------------------------------------------------


def random_rows(count: int, seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).normal(size=(count, 6)).astype(np.float32)


def test_relative_error_is_the_worst_difference_by_the_largest_value() -> None:
    expected = np.array([[1, -4, 0], [0, 0, 0]], np.float32)
    exact = np.array([[1, -4, 0], [0, 0, 0]], np.float32)
    assert relative_error(exact, expected).tolist() == [0, 0]
    off = np.array([[1, -4, 1], [0, 0, 1e-3]], np.float32)
    error = relative_error(off, expected)
    assert error[0] == 0.25
    assert error[1] > 1e30


def test_cosines_against_a_loop() -> None:
    a, b = random_rows(5, 0), random_rows(5, 1)
    slow = [float(x @ y / np.sqrt((x @ x) * (y @ y))) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(cosines(a, b), slow, rtol=1e-5)
    zero = np.zeros((1, 6), np.float32)
    assert cosines(zero, zero) == 1
    assert cosines(zero, a[:1]) == 0
    assert np.isnan(cosines(a[:1] * np.float32("nan"), b[:1]))


def test_neighbor_overlap_against_a_loop() -> None:
    a, b, k = random_rows(20, 0), random_rows(20, 1), 3

    def nearest(rows: np.ndarray[Any, Any], i: int) -> set[int]:
        cosine = {j: float(cosines(rows[i : i + 1], rows[j : j + 1])[0]) for j in range(20)}
        del cosine[i]
        return set(sorted(cosine, key=lambda j: -cosine[j])[:k])

    slow = np.mean([len(nearest(a, i) & nearest(b, i)) / k for i in range(20)])
    assert neighbor_overlap(a, b, k) == pytest.approx(slow)
    assert neighbor_overlap(a, a * 3, k) == 1
    assert neighbor_overlap(a[:2], b[:2], k) == 1  # only one other there is


def test_ties_have_no_order() -> None:
    same = np.ones((8, 6), np.float32)
    almost = same + random_rows(8, 0) * np.float32(1e-6)
    assert neighbor_overlap(almost, same, 3) == 1


def test_generated_images_are_varied_and_always_the_same() -> None:
    images = generated_images(8, 32)
    assert images.shape == (8, 32, 32, 3)
    assert images.dtype == np.uint8
    assert (images[0].max(), images[1].min()) == (0, 255)
    for image in images[2:]:
        assert (image.min(), image.max()) == (0, 255)
        smooth = np.abs(np.diff(image.astype(int), axis=0)).mean()
        assert smooth < image.astype(float).std()  # neighbors are alike: not only noise
    assert np.array_equal(images, generated_images(8, 32))
    assert not np.array_equal(images[2:], generated_images(8, 32, seed=1)[2:])
