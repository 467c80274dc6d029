"""/v2: the routes as they are, and Triton's own client against them."""

import base64
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from serving.http.policy.settings import Settings
from tests.conftest import MANY_CHANNELS, TINY_FEATURES, TINY_SIZE
from tests.serving.http.conftest import Running, started

Encode = Callable[[bytes], NDArray[np.float32]]
INFER = "/v2/models/lookalike/infer"


def noise(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, (count, TINY_SIZE, TINY_SIZE, 3), np.uint8)


def tensor(pixels: NDArray[np.uint8], **more: Any) -> dict[str, Any]:
    return {"name": "images", "datatype": "UINT8", "shape": list(pixels.shape), **more}


def test_what_the_server_says_of_itself(service: Running) -> None:
    get = service.client.get
    assert "binary_tensor_data" in get("/v2").json()["extensions"]
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/lookalike/ready"):
        assert get(path).status_code == 200
    model = get("/v2/models/lookalike/versions/1").json()
    assert model == get("/v2/models/lookalike").json()
    assert model["inputs"][0]["shape"] == [-1, TINY_SIZE, TINY_SIZE, 3]
    assert model["outputs"] == [
        {"name": "embeddings", "datatype": "FP32", "shape": [-1, TINY_FEATURES]}
    ]
    assert service.error(get("/v2/models/other"))[:2] == (404, "unknown-model")
    assert service.error(get("/v2/models/lookalike/versions/2"))[:2] == (404, "unknown-model")


def test_images_have_as_many_channels_as_the_encoder_takes(many_channel_encoder: Path) -> None:
    shape = [TINY_SIZE, TINY_SIZE, MANY_CHANNELS]
    pixels = np.random.default_rng(4).integers(0, 256, (2, *shape), np.uint8)
    with started(Settings(encoder=many_channel_encoder)) as running:
        model = running.client.get("/v2/models/lookalike").json()
        assert model["inputs"][0]["shape"] == [-1, *shape]
        body = {"inputs": [tensor(pixels, data=pixels.ravel().tolist())]}
        (output,) = running.client.post(INFER, json=body).json()["outputs"]
        expected = running.runtime.encoder.encode(pixels)
        np.testing.assert_allclose(np.reshape(output["data"], expected.shape), expected, atol=1e-5)
        other = [tensor(noise(1), data=noise(1).tolist())]
        refused = running.client.post(INFER, json={"inputs": other})
        assert running.error(refused)[2] == "images"
        assert f"[N, {TINY_SIZE}, {TINY_SIZE}, {MANY_CHANNELS}] is needed" in refused.text


def test_pixels_in_json(service: Running) -> None:
    pixels = noise(2)
    expected = service.runtime.encoder.encode(pixels)
    for data in (pixels.tolist(), pixels.ravel().tolist()):
        body = {"id": "mine", "inputs": [tensor(pixels, data=data)]}
        answer = service.client.post(INFER, json=body).json()
        assert (answer["id"], answer["model_name"]) == ("mine", "lookalike")
        (output,) = answer["outputs"]
        assert output["shape"] == [2, TINY_FEATURES]
        np.testing.assert_allclose(np.reshape(output["data"], expected.shape), expected, atol=1e-5)


def test_files_in_binary_and_back(service: Running, image_bytes: bytes, encode: Encode) -> None:
    element = struct.pack("<I", len(image_bytes)) + image_bytes
    parameters = {"binary_data_size": 2 * len(element)}
    encoded = {"name": "encoded", "datatype": "BYTES", "shape": [2], "parameters": parameters}
    outputs = [{"name": "embeddings", "parameters": {"binary_data": True}}]
    head = json.dumps({"inputs": [encoded], "outputs": outputs}).encode()
    answer = service.client.post(
        INFER,
        content=head + 2 * element,
        headers={"Inference-Header-Content-Length": str(len(head))},
    )
    assert answer.status_code == 200, answer.text
    at = int(answer.headers["Inference-Header-Content-Length"])
    assert json.loads(answer.content[:at])["outputs"][0]["shape"] == [2, TINY_FEATURES]
    vectors = np.frombuffer(answer.content[at:], "<f4").reshape(2, TINY_FEATURES)
    np.testing.assert_allclose(vectors, [encode(image_bytes)] * 2, atol=1e-5)


def test_files_in_json(service: Running, image_bytes: bytes, encode: Encode) -> None:
    data = [base64.b64encode(image_bytes).decode()]
    inputs = [{"name": "encoded", "datatype": "BYTES", "shape": [1], "data": data}]
    answer = service.client.post(INFER, json={"inputs": inputs}).json()
    np.testing.assert_allclose(answer["outputs"][0]["data"], encode(image_bytes), atol=1e-5)


GOOD = tensor(noise(1), data=noise(1).ravel().tolist())
FILE = {"name": "encoded", "datatype": "BYTES", "shape": [1]}


@pytest.mark.parametrize(
    ("inputs", "status"),
    [
        (None, 422),
        ([], 422),
        ([GOOD, GOOD], 422),
        ([7], 422),
        ([{**GOOD, "name": "pixels"}], 422),
        ([{**GOOD, "name": ["images"]}], 422),
        ([{**GOOD, "datatype": "FP32"}], 422),
        ([{**GOOD, "shape": [1, 2, 2, 3]}], 422),
        ([{**GOOD, "shape": [0, 32, 32, 3]}], 422),
        ([{**GOOD, "shape": []}], 422),
        ([{**GOOD, "shape": [-1, 32, 32, 3]}], 422),
        ([{**GOOD, "shape": [65, 32, 32, 3]}], 413),
        ([{**GOOD, "data": [1, 2, 3]}], 422),
        ([{**GOOD, "data": [[1], [2, 3]]}], 422),
        ([{**GOOD, "data": [300] * 3072}], 422),
        ([{**GOOD, "data": [0.5] * 3072}], 422),
        ([{**GOOD, "data": "x"}], 422),
        ([{**GOOD, "parameters": {"binary_data_size": 9}}], 422),
        ([{**GOOD, "parameters": 3}], 422),
        ([{**FILE, "data": ["?"]}], 400),
        ([{**FILE, "data": "aGVsbG8="}], 422),
        ([{**FILE, "data": ["aGVsbG8="]}], 422),
        ([{**FILE, "data": []}], 422),
    ],
)
def test_refused_inputs(service: Running, inputs: Any, status: int) -> None:
    answer = service.client.post(INFER, json={"inputs": inputs})
    assert service.error(answer)[0] == status


@pytest.mark.parametrize("length", ["-1", "x", "9" * 30, "1000000"])
def test_a_length_that_lies(service: Running, length: str) -> None:
    headers = {"Inference-Header-Content-Length": length}
    answer = service.client.post(INFER, content=b'{"inputs": []}', headers=headers)
    assert service.error(answer)[:2] == (422, "invalid-parameter")


def test_elements_longer_than_the_tensor(service: Running) -> None:
    for binary in (b"\0", struct.pack("<I", 5) + b"abc", struct.pack("<I", 2**32 - 1)):
        entry = {**FILE, "parameters": {"binary_data_size": len(binary)}}
        head = json.dumps({"inputs": [entry]}).encode()
        headers = {"Inference-Header-Content-Length": str(len(head))}
        answer = service.client.post(INFER, content=head + binary, headers=headers)
        assert service.error(answer) == (422, "invalid-parameter", "encoded")


def test_triton_client(service: Running, image_bytes: bytes, encode: Encode) -> None:
    http = pytest.importorskip("tritonclient.http", reason="tritonclient[http] is not installed")
    client = http.InferenceServerClient(service.url.removeprefix("http://"))
    try:
        assert client.is_server_ready()
        assert client.is_model_ready("lookalike")
        assert client.get_model_metadata("lookalike")["outputs"][0]["name"] == "embeddings"
        pixels = noise(3)
        images = http.InferInput("images", list(pixels.shape), "UINT8")
        for binary in (True, False):
            images.set_data_from_numpy(pixels, binary_data=binary)
            expected = [http.InferRequestedOutput("embeddings", binary_data=binary)]
            vectors = client.infer("lookalike", [images], outputs=expected).as_numpy("embeddings")
            np.testing.assert_allclose(vectors, service.runtime.encoder.encode(pixels), atol=1e-5)
        encoded = http.InferInput("encoded", [1], "BYTES")
        encoded.set_data_from_numpy(np.array([image_bytes], dtype=np.object_))
        vectors = client.infer("lookalike", [encoded]).as_numpy("embeddings")
        np.testing.assert_allclose(vectors, [encode(image_bytes)], atol=1e-5)
    finally:
        client.close()
