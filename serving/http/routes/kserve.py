"""The open inference protocol, version 2 (KServe), with Triton's binary tensor extension.

One model, `lookalike`, one version, `1`. Exactly one input, either

    images   UINT8 [N, S, S, C]   images that the client has preprocessed as the encoder asks
    encoded  BYTES [N]            image files as they are; base64 in JSON; or their URLs

and one output, `embeddings` FP32 [N, E]. Tensors stand in JSON, or binary behind it: the header
Inference-Header-Content-Length says where JSON ends, `binary_data_size` how long each tensor is.
In a binary BYTES tensor each element follows its length, uint32, little-endian.

The path names the model; a `model_name` in the body, which KServe's client sends, changes nothing.
What the server says of itself and of the model is in `kserve_model`.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np
from starlette.responses import Response

from serving.http.engine.embedding import EmbeddedUpload
from serving.http.json_text import json_bytes, json_response, show
from serving.http.request.errors import HttpError, invalid, malformed
from serving.http.request.image_text import base64_of, decoded, is_url
from serving.http.request.json_bounds import VALUES_PER_IMAGE, JsonBounds, parse_bounded
from serving.http.request.parsing import parsed
from serving.http.request.request_body import read_raw, too_many_images
from serving.http.request.uploads import LINKS, Upload, named_by_url
from serving.http.routes.answers import whole_refusal
from serving.http.routes.fields import InferFields
from serving.http.routes.kserve_model import OUTPUT, VERSION, check_served
from serving.http.routes.openai import MODEL
from serving.http.routes.queries import fetched, while_connected

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from starlette.requests import Request

    from images.pixels.preprocess import PreprocessSpec
    from serving.http.engine.runtime import Runtime
    from serving.http.policy.settings import Settings

HEADER_LENGTH = "Inference-Header-Content-Length"
BINARY_SIZE = "binary_data_size"
MAX_OUTPUTS = 16
MAX_NUMBERS = 2_000_000  # as JSON; the parser stops all else while it reads them: 0.1 s
MAX_DIMENSIONS = 8


async def infer(runtime: Runtime, request: Request) -> Response:
    """POST /v2/models/{model}/infer."""
    check_served(runtime.encoder, request)
    spec = runtime.encoder.preprocess
    bounds = _bounds_of(spec, runtime.settings)
    all_json = HEADER_LENGTH not in request.headers
    content = await read_raw(request, runtime.settings, bounds if all_json else None)
    at = _header_length(request, len(content))
    head = await parsed(at, _parse_head, content[:at], bounds)
    fields = InferFields.read(head)
    binary = _wants_binary(fields.parameters, fields.outputs)
    tensor = await parsed(
        len(content), _tensor, fields.inputs, content[at:], spec, runtime.settings
    )
    outcomes: Sequence[EmbeddedUpload | HttpError]
    if isinstance(tensor, list):
        uploads = await fetched(runtime.fetcher, request, tensor)
        outcomes = await while_connected(request, runtime.embedder.embed(uploads))
    else:
        outcomes = await while_connected(request, runtime.embedder.embed_pixels(tensor))
    if any(isinstance(outcome, HttpError) for outcome in outcomes):
        raise whole_refusal(outcomes)
    vectors = np.stack([one.vector for one in outcomes if isinstance(one, EmbeddedUpload)])
    return _answer(vectors, fields.id, binary=binary)


def _header_length(request: Request, length: int) -> int:
    sent = request.headers.get(HEADER_LENGTH)
    if sent is None:
        return length
    if not sent.isdecimal() or int(sent[:12]) > length:
        message = f"{HEADER_LENGTH} is {show(sent)}: give the bytes of JSON, at most {length}"
        raise invalid(HEADER_LENGTH, message)
    return int(sent)


def _bounds_of(spec: PreprocessSpec, settings: Settings) -> JsonBounds:
    """Return what the JSON may hold: numbers of several images, of one however large it is."""
    numbers = spec.size * spec.size * spec.channels
    most = max(numbers, min(settings.max_images * numbers, MAX_NUMBERS))
    return JsonBounds(
        values=most + VALUES_PER_IMAGE,
        images=frozenset(("inputs",)),
        lists={
            "inputs": (1, lambda _count: _not_one_input()),
            "outputs": (MAX_OUTPUTS, lambda count: invalid("outputs", f"{count} are too many")),
        },
    )


def _not_one_input() -> HttpError:
    return invalid("inputs", "send one input: images (UINT8) or encoded (BYTES)")


def _parse_head(content: bytes, bounds: JsonBounds) -> dict[str, Any]:
    try:
        head = parse_bounded(content, bounds)
    except ValueError as error:
        raise malformed("json", f"the body does not begin with JSON: {error}") from error
    if not isinstance(head, dict):
        raise malformed("json", f"the body is {show(head)}: send a JSON object")
    return head


def _wants_binary(requested: dict[str, Any], outputs: object) -> bool:
    """Return whether the output shall be binary; refuse unknown outputs."""
    binary = requested.get("binary_data_output", False)
    if outputs is not None:
        if not isinstance(outputs, list) or not all(isinstance(one, dict) for one in outputs):
            raise invalid("outputs", f"outputs is {show(outputs)}: a list of objects is needed")
        for one in outputs:
            if one.get("name") != OUTPUT:
                message = f"there is no output {show(one.get('name'))}: its name is {OUTPUT}"
                raise invalid("outputs", message)
            parameters = _parameters(one)
            if "classification" in parameters:
                raise invalid("outputs", "classification: an encoder has no classes to rank")
            binary = parameters.get("binary_data", binary)
    return binary is True


def _tensor(
    inputs: object, binary: bytes, spec: PreprocessSpec, settings: Settings
) -> list[Upload] | NDArray[np.uint8]:
    """Return the one input: image files, or uint8 [N, S, S, C]."""
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise _not_one_input()
    tensor = inputs[0]
    kinds: dict[str, tuple[str, list[int]]] = {
        "images": ("UINT8", [spec.size, spec.size, spec.channels]),
        "encoded": ("BYTES", []),
    }
    name = tensor.get("name")
    if not isinstance(name, str) or name not in kinds:
        raise invalid("inputs", f"there is no input {show(name)}: send images or encoded")
    datatype, rest = kinds[name]
    count = _count(tensor, (name, datatype, rest), settings)
    parameters = _parameters(tensor)
    if "shared_memory_region" in parameters:
        raise invalid(name, "shared memory is not used here: send the tensor with the request")
    size = parameters.get(BINARY_SIZE)
    if size is not None and (type(size) is not int or size != len(binary)):
        message = f"{BINARY_SIZE} is {show(size)}, but {len(binary)} bytes follow the JSON"
        raise invalid(name, message)
    if size is None and binary:
        raise invalid(name, f"{len(binary)} bytes follow the JSON: give {BINARY_SIZE}")
    if datatype == "UINT8":
        return _pixels(tensor, binary if size is not None else None, (count, *rest))
    elements: Sequence[bytes | str]
    data = tensor.get("data")
    elements = _split(binary, count) if size is not None else _from_base64(data, count)
    if len(elements) != count:
        raise _other_count(len(elements), count)
    return [_upload(content, f"{name}[{at}]") for at, content in enumerate(elements)]


def _count(tensor: dict[str, Any], expected: tuple[str, str, list[int]], settings: Settings) -> int:
    """Return N of a tensor whose datatype, and whose shape behind N, must be the expected ones."""
    name, datatype, rest = expected
    if tensor.get("datatype") != datatype:
        shown = show(tensor.get("datatype"))
        raise invalid(name, f"{name} has the datatype {shown}: {datatype} is needed")
    shape = tensor.get("shape")
    if (
        not isinstance(shape, list)
        or len(shape) > MAX_DIMENSIONS
        or not all(type(n) is int and n >= 0 for n in shape)
    ):
        raise invalid(name, f"{name} has the shape {show(shape)}: a list of numbers is needed")
    if shape[1:] != rest or not shape or shape[0] == 0:
        form = ", ".join(map(str, ["N", *rest]))
        raise invalid(name, f"{name} has the shape {show(shape)}: [{form}] is needed, N above 0")
    count: int = shape[0]
    if count > settings.max_images:
        raise too_many_images(count, settings)
    return count


def _pixels(
    tensor: dict[str, Any], binary: bytes | None, shape: tuple[int, ...]
) -> NDArray[np.uint8]:
    if binary is not None:
        array = np.frombuffer(binary, np.uint8)
    else:
        try:
            wide = np.asarray(tensor.get("data"))
        except ValueError as error:
            raise invalid("images", "images has rows of different lengths") from error
        if wide.dtype.kind not in "iu" or (wide.size and not 0 <= wide.min() <= wide.max() <= 255):
            raise invalid("images", "images must hold whole numbers from 0 to 255")
        array = wide.astype(np.uint8)
    if array.size != int(np.prod(shape)):
        message = f"images has {array.size} values, its shape says {int(np.prod(shape))}"
        raise invalid("images", message)
    return array.reshape(shape)


def _other_count(count: object, expected: int) -> HttpError:
    return invalid("encoded", f"encoded has {count} elements, its shape says {expected}")


def _split(binary: bytes, count: int) -> list[bytes]:
    """Return the elements of a binary BYTES tensor that should have so many."""
    elements: list[bytes] = []
    at = 0
    while at < len(binary):
        if len(elements) == count:
            raise _other_count(f"more than {count}", count)
        end = at + 4
        if end <= len(binary):
            end += struct.unpack_from("<I", binary, at)[0]
        if end > len(binary) or end < at + 4:
            raise invalid("encoded", f"the element at byte {at} is longer than the tensor")
        elements.append(binary[at + 4 : end])
        at = end
    return elements


def _upload(element: bytes | str, param: str) -> Upload:
    """Return an element of `encoded`; no image file begins as a URL does."""
    if isinstance(element, bytes) and not element.startswith(tuple(map(str.encode, LINKS))):
        return Upload(element, param)
    url = element if isinstance(element, str) else element.decode("latin-1")
    return named_by_url(url, param)


def _from_base64(data: object, count: int) -> list[bytes | str]:
    """Image files, or URLs as they are."""
    if isinstance(data, list) and len(data) > count:
        raise _other_count(len(data), count)
    if not isinstance(data, list) or not all(isinstance(one, str) for one in data):
        raise invalid("encoded", f"data is {show(data)}: a list of base64 texts is needed")
    try:
        return [one if is_url(one) else decoded(base64_of(one) or one) for one in data]
    except ValueError as error:
        raise malformed("base64", f"encoded is not base64: {error}", "encoded") from error


def _parameters(entry: dict[str, Any]) -> dict[str, Any]:
    parameters = entry.get("parameters", {})
    if not isinstance(parameters, dict):
        raise invalid("parameters", f"parameters is {show(parameters)}: an object is needed")
    return parameters


def _answer(vectors: NDArray[np.float32], request_id: str | None, *, binary: bool) -> Response:
    values = vectors.astype("<f4", copy=False)
    output: dict[str, Any] = {"name": OUTPUT, "datatype": "FP32", "shape": list(values.shape)}
    if binary:
        output["parameters"] = {BINARY_SIZE: values.nbytes}
    else:
        output["data"] = values.ravel()
    content = {"model_name": MODEL, "model_version": VERSION, "outputs": [output]}
    if request_id is not None:
        content["id"] = request_id
    if not binary:
        return json_response(content)
    head = json_bytes(content)
    headers = {HEADER_LENGTH: str(len(head))}
    return Response(head + values.tobytes(), headers=headers, media_type="application/octet-stream")
