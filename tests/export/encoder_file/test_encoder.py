"""Encoding: types, shapes, empty batches, threads; and the session behind it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from base.cpus import available_cpus
from base.errors import UsageError
from export.encoder_file import session
from export.encoder_file.encoder_file import Encoder, open_encoder
from tests.conftest import TINY_FEATURES, TINY_SIZE

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


@pytest.fixture(scope="module")
def encoder(tiny_encoder: Path) -> Encoder:
    return open_encoder(tiny_encoder)


def noise(count: int, seed: int = 0) -> NDArray[np.uint8]:
    shape = (count, TINY_SIZE, TINY_SIZE, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def test_an_open_encoder_says_what_it_is(encoder: Encoder, tiny_encoder: Path) -> None:
    assert encoder.path == tiny_encoder
    assert encoder.embedding_dim == encoder.contract.embedding_dim == TINY_FEATURES
    assert encoder.preprocess.size == TINY_SIZE
    assert encoder.provider in ("cpu", "cuda")


def test_embeddings_are_normalized_features(encoder: Encoder) -> None:
    features, embeddings = encoder.encode_with_features(noise(5))
    assert features.shape == embeddings.shape == (5, TINY_FEATURES)
    assert features.dtype == embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)
    length = np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(embeddings, features / length, atol=1e-6)
    assert np.array_equal(encoder.encode(noise(5)), embeddings)


def test_one_by_one_is_the_same_as_a_batch(encoder: Encoder) -> None:
    images = noise(7)
    single = np.concatenate([encoder.encode(images[i : i + 1]) for i in range(7)])
    np.testing.assert_allclose(single, encoder.encode(images), atol=1e-6)


def test_an_empty_batch_gives_empty_rows(encoder: Encoder) -> None:
    features, embeddings = encoder.encode_with_features(noise(0))
    assert features.shape == embeddings.shape == (0, TINY_FEATURES)
    assert features.dtype == embeddings.dtype == np.float32
    assert encoder.encode(noise(0)).shape == (0, TINY_FEATURES)


def test_any_memory_layout_will_do(encoder: Encoder) -> None:
    images = noise(6)
    planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
    assert not planes.flags.c_contiguous
    assert np.array_equal(encoder.encode(planes), encoder.encode(images))
    assert np.array_equal(encoder.encode(images[::2]), encoder.encode(images[::2].copy()))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (noise(2).astype(np.float32), "images are float32: give a NumPy array of uint8"),
        (noise(2).astype(np.int8), "images are int8"),
        ([[1]], "images are list"),
        (noise(1)[0], r"have shape \[32, 32, 3\]: this encoder takes \[N, 32, 32, 3\]"),
        (noise(2)[:, :16], r"have shape \[2, 16, 32, 3\]"),
        (noise(2).transpose(0, 3, 1, 2), r"have shape \[2, 3, 32, 32\]"),
        (noise(0)[..., :1], r"have shape \[0, 32, 32, 1\]"),
    ],
)
def test_another_type_or_shape_is_told(encoder: Encoder, images: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        encoder.encode(images)


def test_threads_do_not_disturb_one_another(encoder: Encoder) -> None:
    batches = [noise(1 + seed % 5, seed) for seed in range(64)]
    expected = [encoder.encode(batch) for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(encoder.encode, batches))
    for mine, theirs in zip(expected, results, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)


# --- the session ---------------------------------------------------------------------------------


def test_session_options_are_those_a_server_needs() -> None:
    import onnxruntime as ort

    options = session.session_options(3)
    assert options.intra_op_num_threads == 3
    assert options.execution_mode == ort.ExecutionMode.ORT_SEQUENTIAL
    assert options.graph_optimization_level == ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert not options.enable_mem_pattern


def test_threads_default_to_the_cpus_of_the_process(
    monkeypatch: pytest.MonkeyPatch, tiny_encoder: Path
) -> None:
    requested: list[int] = []
    options = session.session_options

    def note(threads: int) -> object:
        requested.append(threads)
        return options(threads)

    monkeypatch.setattr(session, "session_options", note)
    open_encoder(tiny_encoder)
    open_encoder(tiny_encoder, threads=1)
    assert requested == [available_cpus(), 1]


def test_opening_prints_nothing(capfd: pytest.CaptureFixture[str], tiny_encoder: Path) -> None:
    open_encoder(tiny_encoder).encode(noise(1))
    printed = capfd.readouterr()
    assert printed.out == printed.err == ""


def test_cuda_without_a_device_is_told(monkeypatch: pytest.MonkeyPatch, tiny_encoder: Path) -> None:
    monkeypatch.setattr(session, "usable_cuda_devices", lambda: 0)
    with pytest.raises(UsageError, match="no CUDA device works here"):
        open_encoder(tiny_encoder, provider="cuda")
    assert open_encoder(tiny_encoder, provider="auto").provider == "cpu"


def test_a_device_whose_libraries_do_not_load_falls_back(
    monkeypatch: pytest.MonkeyPatch, tiny_encoder: Path
) -> None:
    monkeypatch.setattr(session, "usable_cuda_devices", lambda: 1)
    monkeypatch.setattr(session, "_cuda_session", lambda *_: None)
    assert open_encoder(tiny_encoder, provider="auto").provider == "cpu"
    with pytest.raises(UsageError, match="no CUDA device works here"):
        open_encoder(tiny_encoder, provider="cuda")


def test_unusable_options_are_told(tiny_encoder: Path) -> None:
    unknown: Any = "tpu"
    with pytest.raises(UsageError, match="'tpu' is unknown: choose auto, cpu or cuda"):
        open_encoder(tiny_encoder, provider=unknown)
    with pytest.raises(UsageError, match="threads is 0"):
        open_encoder(tiny_encoder, threads=0)


@pytest.mark.gpu
def test_cuda_computes_what_the_cpu_computes(tiny_encoder: Path) -> None:
    if session.usable_cuda_devices() == 0:
        pytest.skip("no CUDA device")
    on_gpu = open_encoder(tiny_encoder, provider="cuda").encode(noise(9))
    on_cpu = open_encoder(tiny_encoder, provider="cpu").encode(noise(9))
    np.testing.assert_allclose(on_gpu, on_cpu, atol=1e-3)  # TF32 convolutions
