"""/docs.json is what the service does: requests made from it, good and bad, and their answers."""

import contextlib
import importlib.metadata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import pytest
import schemathesis
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from serving.http.policy.settings import Settings
from tests.serving.http.conftest import Running, make_collection, started
from tests.serving.http.routes.test_embed import Encode

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
EXAMPLES = 6  # of each route and each mode


@pytest.fixture(scope="module")
def described(
    tiny_encoder: Path,
    image_folder: Path,
    images: dict[str, bytes],
    encode: Encode,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Running, Any]]:
    folder = tmp_path_factory.mktemp("schema") / "collection"
    make_collection(folder, tiny_encoder, image_folder, images, encode)
    with started(Settings(encoder=tiny_encoder, collection=folder)) as running:
        spec = httpx.get(f"{running.url}/docs.json").json()
        yield running, schemathesis.openapi.from_dict(spec)


def test_health_and_description_under_the_names_of_others(
    described: tuple[Running, Any], tiny_encoder: Path
) -> None:
    client = described[0].client
    assert client.get("/openapi.json").json() == client.get("/docs.json").json()
    assert client.get("/health").json() == {"status": "ok"}
    with started(Settings(encoder=tiny_encoder), warm=False) as cold:
        assert cold.error(cold.client.get("/health")) == (503, "not-ready", None)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_every_answer_is_one_that_is_described(
    described: tuple[Running, Any], mode: GenerationMode
) -> None:
    """No 5xx; the status, the media type and the shape are those of the description."""
    running, schema = described
    covered: set[str] = set()
    operations = [result.ok() for result in schema.get_all_operations()]
    for operation in operations:

        @hypothesis.settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: Any) -> None:
            answer = case.call(base_url=running.url, timeout=20)
            case.validate_response(answer, checks=CHECKS)
            covered.add(case.operation.label)

        with contextlib.suppress(hypothesis.errors.Unsatisfiable):  # nothing can be wrong in it
            ask()
    if mode is GenerationMode.POSITIVE:
        assert covered == {operation.label for operation in operations}
    else:
        assert {"POST /embed", "POST /search", "POST /items", "GET /items"} < covered
    assert running.client.get("/readyz").status_code == 200


def test_the_description_has_the_bounds_of_this_service(described: tuple[Running, Any]) -> None:
    paths = described[0].client.get("/docs.json").json()["paths"]
    parameters = {
        (path, one["name"]): one["schema"]
        for path, operations in paths.items()
        for operation in operations.values()
        for one in operation.get("parameters", ())
    }
    assert parameters["/items", "limit"]["maximum"] == 1000
    assert parameters["/search", "k"]["maximum"] == 1000
    assert parameters["/items/{key}/similar", "k"]["minimum"] == 1
    assert parameters["/items/{key}/thumbnail", "size"]["maximum"] == 4096
    assert parameters["/items/{key}", "key"] == {
        "type": "string",
        "minLength": 1,
        "maxLength": 1024,
    }
    assert "lookalike" in parameters["/v2/models/{model}", "model"]["enum"]
    body = paths["/v1/embeddings"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["properties"]["dimensions"]["maximum"] == described[0].runtime.encoder.embedding_dim
    assert set(body["properties"]["model"]["enum"]) == {
        "lookalike",
        described[0].runtime.encoder.digest,
    }


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/items/a", {"GET", "HEAD", "DELETE"}),
        ("/items/a/similar", {"GET", "HEAD"}),
        ("/items/a/b/thumbnail?size=3", {"GET", "HEAD"}),
        ("/items/a%2Fsimilar", {"GET", "HEAD", "DELETE"}),
        ("/items/similar", {"GET", "HEAD", "DELETE"}),
    ],
)
def test_allow_names_what_is_taken(
    described: tuple[Running, Any], path: str, allowed: set[str]
) -> None:
    for method in {"PUT", "DELETE"} - allowed:
        answer = described[0].client.request(method, path)
        assert answer.status_code == 405
        assert set(answer.headers["allow"].split(", ")) == allowed


def test_the_version_is_told_to_people_and_to_prometheus(described: tuple[Running, Any]) -> None:
    running = described[0]
    version = running.client.get("/status").json()["version"]
    assert version == importlib.metadata.version("lookalike")
    digest = running.runtime.encoder.digest
    sample = f'lookalike_build_info{{version="{version}",encoder="{digest}"}} 1'
    assert sample in running.client.get("/metrics").text.splitlines()
