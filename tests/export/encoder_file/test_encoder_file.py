"""Writing, reading and opening encoder files; what is refused, and with which message."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZipFile

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from base.errors import ArtifactError, UsageError
from export.encoder_file.encoder_file import (
    METADATA_KEY,
    EncoderContract,
    describe,
    open_encoder,
    read_contract,
    write_encoder_file,
)
from tests.conftest import TINY_FEATURES, TINY_SIZE, tiny_contract, tiny_graph

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

CONTRACT = tiny_contract()


def described(model: onnx.ModelProto, contract: EncoderContract = CONTRACT) -> onnx.ModelProto:
    """The model with metadata put in by hand, past all checks of `write_encoder_file`."""
    model.metadata_props.add(key=METADATA_KEY, value=contract.to_json())
    return model


def refused(path: Path, how: Callable[[Path], object] = read_contract) -> str:
    """The message with which a file is refused: one line, with its path and a remedy."""
    with pytest.raises(ArtifactError) as caught:
        how(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert "lookalike export RUN" in message
    return message


def png() -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    return buffer.getvalue()


def checkpoint() -> bytes:
    buffer = io.BytesIO()
    with ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    return buffer.getvalue()


# --- writing -------------------------------------------------------------------------------------


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "encoder.onnx"
    digest = write_encoder_file(tiny_graph(), CONTRACT, path)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert read_contract(path) == CONTRACT
    assert [file.name for file in tmp_path.iterdir()] == ["encoder.onnx"]
    onnx.checker.check_model(path, full_check=True)


def test_the_same_graph_gives_the_same_bytes(tmp_path: Path) -> None:
    first = write_encoder_file(tiny_graph(), CONTRACT, tmp_path / "a.onnx")
    assert write_encoder_file(tiny_graph(), CONTRACT, tmp_path / "b.onnx") == first
    assert write_encoder_file(tiny_graph(seed=1), CONTRACT, tmp_path / "c.onnx") != first


def test_metadata_of_others_stays_and_ours_is_replaced(tmp_path: Path) -> None:
    model = described(tiny_graph())
    model.metadata_props.add(key="theirs", value="kept")
    before = model.SerializeToString()
    write_encoder_file(model, tiny_contract(seed=5), tmp_path / "encoder.onnx")
    assert model.SerializeToString() == before
    written = onnx.load(tmp_path / "encoder.onnx")
    entries = {entry.key: entry.value for entry in written.metadata_props}
    assert entries == {"theirs": "kept", METADATA_KEY: tiny_contract(seed=5).to_json()}
    assert written.doc_string == (  # as every version wrote it: it is part of the identity
        "Image encoder: uint8 [N, 32, 32, 3] to features and L2-normalised embeddings of 24 "
        "numbers. metadata_props['lookalike'] describes it."
    )


def test_a_refused_graph_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "encoder.onnx"
    path.write_bytes(b"old")
    with pytest.raises(ArtifactError, match="metadata promises"):
        write_encoder_file(tiny_graph(size=48), CONTRACT, path)
    model = tiny_graph()
    model.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(ArtifactError, match="not valid ONNX"):
        write_encoder_file(model, CONTRACT, path)
    model = tiny_graph()
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    with pytest.raises(ArtifactError):
        write_encoder_file(model, CONTRACT, path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_only_a_file_is_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name, message in (("pipe", "is a pipe or a device"), ("folder", "is a folder")):
        with pytest.raises(UsageError, match=message):
            write_encoder_file(tiny_graph(), CONTRACT, tmp_path / name)
    assert (tmp_path / "pipe").is_fifo()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["folder", "pipe"]


# --- foreign and damaged files -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no ONNX graph"),
        (b"\x08\x0a", "no ONNX graph"),
        (b"These are notes.\n" * 40, "not a whole ONNX file"),
        (png(), "not a whole ONNX file"),
        (checkpoint(), "PyTorch checkpoint"),
        (tiny_graph().SerializeToString(), "0 descriptions under 'lookalike'"),
        (described(described(tiny_graph())).SerializeToString(), "2 descriptions"),
    ],
)
def test_foreign_files_are_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "encoder.onnx"
    path.write_bytes(content)
    for how in (read_contract, open_encoder, describe):
        assert reason in refused(path, how)


def test_folders_and_missing_files_are_told(tmp_path: Path) -> None:
    assert "is a folder" in refused(tmp_path)
    assert "No such file" in refused(tmp_path / "missing.onnx", open_encoder)
    os.mkfifo(tmp_path / "pipe")
    assert "is a pipe or a device" in refused(tmp_path / "pipe")


def test_other_metadata_is_refused(tmp_path: Path) -> None:
    model = tiny_graph()
    model.metadata_props.add(key=METADATA_KEY, value="{}")
    (tmp_path / "encoder.onnx").write_bytes(model.SerializeToString())
    assert "format_version" in refused(tmp_path / "encoder.onnx")


def test_every_truncation_is_refused(tmp_path: Path, tiny_encoder: Path) -> None:
    content = tiny_encoder.read_bytes()
    path = tmp_path / "encoder.onnx"
    for length in (*range(0, len(content), 211), len(content) - 1):
        path.write_bytes(content[:length])
        refused(path)
        refused(path, open_encoder)


@settings(max_examples=200)
@given(data=st.data())
def test_flipped_bytes_raise_nothing_unexpected(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path
) -> None:
    content = bytearray(tiny_encoder.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "flipped.onnx"
    path.write_bytes(content)
    try:
        read_contract(path)
    except ArtifactError as error:
        assert "\n" not in str(error)  # noqa: PT017 - a file that is still whole is fine too


def test_weights_in_other_files_are_refused_unread(tmp_path: Path) -> None:
    model = described(tiny_graph())
    weight = next(value for value in model.graph.initializer if value.name == "conv1")
    (tmp_path / "secret.bin").write_bytes(weight.raw_data)
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="secret.bin")
    path = tmp_path / "encoder.onnx"
    path.write_bytes(model.SerializeToString())
    assert "keeps 1 tensors in other files" in refused(path, open_encoder)


def test_a_large_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "encoder.onnx"
    with path.open("wb") as file:
        file.truncate(2 * 1024**3)  # sparse: takes no space
    with pytest.raises(ArtifactError, match="larger than 2 GiB"):
        read_contract(path)


# --- describing ----------------------------------------------------------------------------------


def test_describe_tells_every_fact(tmp_path: Path) -> None:
    path = tmp_path / "encoder.onnx"
    digest = write_encoder_file(tiny_graph(), CONTRACT, path)
    facts = describe(path)
    assert facts.pop("contract")["feature_dim"] == TINY_FEATURES
    assert facts == {
        "kind": "encoder",
        "path": str(path),
        "sha256": digest,
        "bytes": path.stat().st_size,
        "opset": 20,
        "ir_version": 10,
        "nodes": 13,
        "producer": "",
    }


# --- the tiny encoder of the other rooms' tests --------------------------------------------------


def test_the_tiny_encoder_computes_its_graph(tiny_encoder: Path) -> None:
    encoder = open_encoder(tiny_encoder)
    images = np.random.default_rng(3).integers(0, 256, (4, TINY_SIZE, TINY_SIZE, 3), np.uint8)
    features, embeddings = encoder.encode_with_features(images)
    graph = {v.name: onnx.numpy_helper.to_array(v) for v in tiny_graph().graph.initializer}

    def convolve(x: NDArray[Any], kernel: NDArray[Any]) -> NDArray[Any]:
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
        summed = np.einsum("nchwij,ocij->nohw", windows[:, :, ::2, ::2], kernel)
        return np.asarray(np.maximum(summed, 0))

    scaled = (images.transpose(0, 3, 1, 2) / 255 - 0.5) / 0.25
    expected = convolve(convolve(scaled, graph["conv1"]), graph["conv2"]).mean((2, 3))
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
    norm = np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(embeddings, expected / norm, rtol=1e-4, atol=1e-5)


def test_a_copied_file_has_the_same_identity(tmp_path: Path, tiny_encoder: Path) -> None:
    copy = shutil.copy(tiny_encoder, tmp_path / "renamed.bin")
    assert open_encoder(copy).digest == open_encoder(tiny_encoder).digest


def test_another_encoder_has_another_identity(tiny_encoder: Path, other_encoder: Path) -> None:
    assert open_encoder(other_encoder).digest != open_encoder(tiny_encoder).digest
    assert read_contract(other_encoder).preprocess == read_contract(tiny_encoder).preprocess
