"""/v2 but for inference: what the server and its one model are, whether they are ready, figures.

Health has bodies (`{"live": true}`), which KServe's client reads; Triton's reads the status alone.
Configuration, statistics and the repository's index are Triton's extensions of the protocol.
"""

from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from export.encoder_file.encoder_file import Encoder
from serving.http.engine.runtime import Runtime
from serving.http.json_text import json_response, show
from serving.http.request.errors import ERROR_TYPE_HEADER, HttpError
from serving.http.routes.openai import MODEL, check_model
from serving.http.telemetry.metrics import Metrics

VERSION = "1"
OUTPUT = "embeddings"
PLATFORM = "onnxruntime_onnx"
INFER_ROUTE = "/v2/models/{model}/infer"
EXTENSIONS = ["binary_tensor_data", "model_configuration", "model_repository", "statistics"]


async def server(_runtime: Runtime, _request: Request) -> Response:
    """GET /v2."""
    return json_response({"name": "lookalike", "version": VERSION, "extensions": EXTENSIONS})


async def live(runtime: Runtime, _request: Request) -> Response:
    """GET /v2/health/live."""
    return _health({"live": runtime.embedder.alive}, "the service does not work: restart it")


async def ready(runtime: Runtime, request: Request) -> Response:
    """GET /v2/health/ready and /v2/models/{model}/ready."""
    content: dict[str, Any] = {"ready": runtime.ready}
    if "model" in request.path_params:
        check_served(runtime.encoder, request)
        content = {"name": MODEL, **content}
    return _health(content, "the service is warming up: try again in a moment")


def _health(content: dict[str, Any], problem: str) -> Response:
    if all(content.values()):
        return json_response(content)
    headers = {ERROR_TYPE_HEADER: "not-ready"}
    return json_response({**content, "error": problem}, HTTPStatus.SERVICE_UNAVAILABLE, headers)


async def models(_runtime: Runtime, _request: Request) -> Response:
    """GET /v2/models."""
    return json_response({"models": [MODEL]})


async def metadata(runtime: Runtime, request: Request) -> Response:
    """GET /v2/models/{model}."""
    check_served(runtime.encoder, request)
    spec = runtime.encoder.preprocess
    content = {
        "name": MODEL,
        "versions": [VERSION],
        "platform": PLATFORM,
        "inputs": [
            {
                "name": "images",
                "datatype": "UINT8",
                "shape": [-1, spec.size, spec.size, spec.channels],
            },
            {"name": "encoded", "datatype": "BYTES", "shape": [-1]},
        ],
        "outputs": [
            {"name": OUTPUT, "datatype": "FP32", "shape": [-1, runtime.encoder.embedding_dim]}
        ],
        "parameters": {"encoder": runtime.encoder.digest},
    }
    return json_response(content)


async def configuration(runtime: Runtime, request: Request) -> Response:
    """GET /v2/models/{model}/config: Triton's model configuration; `dims` are without the batch."""
    check_served(runtime.encoder, request)
    spec = runtime.encoder.preprocess
    pixels = [spec.size, spec.size, spec.channels]
    content = {
        "name": MODEL,
        "platform": PLATFORM,
        "backend": "onnxruntime",
        "max_batch_size": runtime.settings.max_images,
        "input": [
            {"name": "images", "data_type": "TYPE_UINT8", "dims": pixels, "optional": True},
            {
                "name": "encoded",
                "data_type": "TYPE_STRING",
                "dims": [1],
                "reshape": {"shape": []},
                "optional": True,
            },
        ],
        "output": [
            {"name": OUTPUT, "data_type": "TYPE_FP32", "dims": [runtime.encoder.embedding_dim]}
        ],
        "dynamic_batching": {},
        "parameters": {"encoder": {"string_value": runtime.encoder.digest}},
    }
    return json_response(content)


async def statistics(runtime: Runtime, request: Request) -> Response:
    """GET /v2/models/stats and /v2/models/{model}/stats."""
    if "model" in request.path_params:
        check_served(runtime.encoder, request)
    return json_response({"model_stats": [_statistics(runtime.metrics)]})


def _statistics(metrics: Metrics) -> dict[str, Any]:
    """Return counts and times since the start; requests are those of `infer` alone."""
    requests = "lookalike_requests_total"
    good = metrics.total(requests, route=INFER_ROUTE, status="200")
    every = metrics.total(requests, route=INFER_ROUTE)
    seconds = metrics.total("lookalike_request_seconds_sum", route=INFER_ROUTE)

    def duration(count: float, name: str) -> dict[str, int]:
        return {"count": int(count), "ns": int(metrics.total(f"{name}_seconds_sum") * 1e9)}

    batches = metrics.total("lookalike_batch_images_bucket")
    embedded = metrics.total("lookalike_images_total", outcome="embedded")
    return {
        "name": MODEL,
        "version": VERSION,
        "inference_count": int(embedded),
        "execution_count": int(batches),
        "inference_stats": {
            "success": {"count": int(good), "ns": int(seconds * 1e9)},
            "fail": {"count": int(every - good), "ns": 0},
            "queue": duration(batches, "lookalike_queue"),
            "compute_input": duration(embedded, "lookalike_decode"),
            "compute_infer": duration(batches, "lookalike_batch"),
            "compute_output": {"count": 0, "ns": 0},
        },
        "batch_stats": [],
    }


async def repository_index(runtime: Runtime, _request: Request) -> Response:
    """POST /v2/repository/index."""
    state = "READY" if runtime.ready else "LOADING"
    return json_response([{"name": MODEL, "version": VERSION, "state": state, "reason": ""}])


def check_served(encoder: Encoder, request: Request) -> None:
    """Refuse a model or a version in the path that is not the one here."""
    check_model(encoder, request.path_params["model"])
    version = request.path_params.get("version", VERSION)
    if version != VERSION:
        message = f"there is no version {show(version)} of {MODEL} here: its version is {VERSION}"
        raise HttpError(HTTPStatus.NOT_FOUND, "unknown-model", message, param="version")
