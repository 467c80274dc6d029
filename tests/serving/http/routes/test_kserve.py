"""/v2: the routes as they are, and Triton's own client against them."""

import base64
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
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
    assert get("/v2/health/live").json() == {"live": True}
    assert get("/v2/health/ready").json() == {"ready": True}
    assert get("/v2/models/lookalike/ready").json() == {"name": "lookalike", "ready": True}
    assert get("/v2/models").json() == {"models": ["lookalike"]}
    model = get("/v2/models/lookalike/versions/1").json()
    assert model == get("/v2/models/lookalike").json()
    assert model["inputs"][0]["shape"] == [-1, TINY_SIZE, TINY_SIZE, 3]
    assert model["outputs"] == [
        {"name": "embeddings", "datatype": "FP32", "shape": [-1, TINY_FEATURES]}
    ]
    assert service.plain_error(get("/v2/models/other")) == (404, "unknown-model")
    assert service.plain_error(get("/v2/models/lookalike/versions/2")) == (404, "unknown-model")


def test_health_before_it_is_warm(tiny_encoder: Path) -> None:
    with started(Settings(encoder=tiny_encoder), warm=False) as running:
        answer = running.client.get("/v2/health/ready")
        assert answer.status_code == 503
        assert answer.json()["ready"] is False
        assert "warming up" in answer.json()["error"]
        assert running.client.get("/v2/health/live").json() == {"live": True}
        (model,) = running.client.post("/v2/repository/index").json()
        assert model["state"] == "LOADING"


def test_every_refusal_under_v2_is_a_text(tiny_encoder: Path, collection_folder: Path) -> None:
    """Also those of the gate, of BentoML and of the router."""
    settings = Settings(encoder=tiny_encoder, collection=collection_folder, write_key="write-12345")
    with started(settings) as running:
        key = {"X-API-Key": "write-12345"}
        request = running.client.request
        assert running.plain_error(request("GET", "/v2")) == (401, "unauthorized")
        assert running.plain_error(request("POST", INFER)) == (401, "unauthorized")
        for method, path, expected in (
            ("GET", "/v2/nowhere", (404, "not-found")),
            ("GET", INFER, (405, "method-not-allowed")),
            ("POST", "/v2/repository/models/lookalike/unload", (404, "not-found")),
            ("POST", INFER, (400, "malformed-json")),
        ):
            assert running.plain_error(request(method, path, headers=key)) == expected
        two = {**FILE, "shape": [2], "data": ["aGVsbG8=", "aGVsbG8="]}
        refused = request("POST", INFER, json={"inputs": [two]}, headers=key)
        assert running.plain_error(refused) == (422, "not-an-image")
        assert refused.json()["error"].startswith("encoded[0]: ")
        elsewhere = request("GET", "/v2x", headers=key)
        assert running.error(elsewhere)[:2] == (404, "not-found")


def test_optional_fields_of_a_request(service: Running) -> None:
    body = {
        "id": "",
        "model_name": "any",
        "model_version": "1",
        "parameters": {"priority": 0},
        "inputs": [GOOD],
        "outputs": [{"name": "embeddings", "parameters": {"binary_data": False}}],
    }
    answer = service.client.post(INFER, json=body)
    assert answer.status_code == 200, answer.text
    classes = [{"name": "embeddings", "parameters": {"classification": 3}}]
    refused = service.client.post(INFER, json={**body, "outputs": classes})
    assert service.plain_error(refused) == (422, "invalid-parameter")


def test_configuration_and_statistics(service: Running) -> None:
    get = service.client.get
    config = get("/v2/models/lookalike/versions/1/config").json()
    assert config["input"][0]["dims"] == [TINY_SIZE, TINY_SIZE, 3]
    assert config["output"] == [
        {"name": "embeddings", "data_type": "TYPE_FP32", "dims": [TINY_FEATURES]}
    ]
    assert config["max_batch_size"] == service.runtime.settings.max_images
    (before,) = get("/v2/models/stats").json()["model_stats"]
    assert service.client.post(INFER, json={"inputs": [GOOD]}).status_code == 200
    assert service.client.post(INFER, json={"inputs": []}).status_code == 422
    (after,) = get("/v2/models/lookalike/stats").json()["model_stats"]
    assert after["inference_count"] == before["inference_count"] + 1
    assert after["execution_count"] == before["execution_count"] + 1
    for outcome in ("success", "fail"):
        counts = [one["inference_stats"][outcome]["count"] for one in (before, after)]
        assert counts[1] == counts[0] + 1
    assert service.plain_error(get("/v2/models/other/config")) == (404, "unknown-model")
    assert service.plain_error(get("/v2/models/other/stats")) == (404, "unknown-model")


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
        assert running.plain_error(refused) == (422, "invalid-parameter")
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
        ([{**FILE, "data": None, "parameters": {"shared_memory_region": "r"}}], 422),
        ([{**FILE, "data": ["?"]}], 400),
        ([{**FILE, "data": "aGVsbG8="}], 422),
        ([{**FILE, "data": ["aGVsbG8="]}], 422),
        ([{**FILE, "data": []}], 422),
    ],
)
def test_refused_inputs(service: Running, inputs: Any, status: int) -> None:
    answer = service.client.post(INFER, json={"inputs": inputs})
    assert service.plain_error(answer)[0] == status


@pytest.mark.parametrize("length", ["-1", "x", "9" * 30, "1000000"])
def test_a_length_that_lies(service: Running, length: str) -> None:
    headers = {"Inference-Header-Content-Length": length}
    answer = service.client.post(INFER, content=b'{"inputs": []}', headers=headers)
    assert service.plain_error(answer) == (422, "invalid-parameter")


def test_elements_longer_than_the_tensor(service: Running) -> None:
    for binary in (b"\0", struct.pack("<I", 5) + b"abc", struct.pack("<I", 2**32 - 1)):
        entry = {**FILE, "parameters": {"binary_data_size": len(binary)}}
        head = json.dumps({"inputs": [entry]}).encode()
        headers = {"Inference-Header-Content-Length": str(len(head))}
        answer = service.client.post(INFER, content=head + binary, headers=headers)
        assert service.plain_error(answer) == (422, "invalid-parameter")


def test_triton_client(service: Running, image_bytes: bytes, encode: Encode) -> None:
    http = pytest.importorskip("tritonclient.http", reason="tritonclient[http] is not installed")
    utils = pytest.importorskip("tritonclient.utils")
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
        assert client.get_model_config("lookalike")["platform"] == "onnxruntime_onnx"
        assert client.get_inference_statistics()["model_stats"][0]["inference_count"] > 0
        assert client.get_model_repository_index()[0]["state"] == "READY"
        for name, shape in (("wrong", [1]), ("encoded", [2])):
            tensor = http.InferInput(name, shape, "BYTES")
            tensor.set_data_from_numpy(np.array([image_bytes] * shape[0], dtype=np.object_))
            with pytest.raises(utils.InferenceServerException) as refused:
                client.infer("lookalike" if name == "wrong" else "other", [tensor])
            assert ("wrong" if name == "wrong" else "other") in str(refused.value)
            assert refused.value.status() in ("422", "404")
    finally:
        client.close()


def test_kserve_client(service: Running, image_bytes: bytes, encode: Encode) -> None:
    """What its `InferenceRESTClient` (0.21) sends, and how it reads the answers."""
    with httpx.Client(base_url=service.url) as client:
        assert client.get("/v2/health/live").json().get("live") is True
        assert client.get("/v2/health/ready").json().get("ready") is True
        element = struct.pack("<I", len(image_bytes)) + image_bytes
        tensor = {"name": "encoded", "shape": [1], "datatype": "BYTES"}
        head = json.dumps(
            {
                "id": "7",
                "model_name": "lookalike",
                "inputs": [{**tensor, "parameters": {"binary_data_size": len(element)}}],
            }
        ).encode()
        headers = {
            "inference-header-content-length": str(len(head)),
            "content-type": "application/octet-stream",
        }
        answer = client.post(INFER, content=head + element, headers=headers)
        content = answer.json()
        assert (content["model_name"], content["id"]) == ("lookalike", "7")
        np.testing.assert_allclose(content["outputs"][0]["data"], encode(image_bytes), atol=1e-5)
        refused = client.post(INFER, json={"model_name": "lookalike", "inputs": []})
        assert refused.headers["content-type"] == "application/json"
        assert "send one input" in refused.json()["error"]
