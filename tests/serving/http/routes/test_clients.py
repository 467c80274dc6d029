"""BentoML's own client against the service, and the API description it is made from."""

import json
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.serving.http.conftest import Running

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import bentoml
    from bentoml.exceptions import BentoMLException

Encode = Callable[[bytes], NDArray[np.float32]]


@pytest.fixture(scope="module")
def client(service: Running) -> Iterator[Any]:
    with bentoml.SyncHTTPClient(service.url) as made:
        yield made
        made._temp_dir.cleanup()  # it leaves that to the garbage collector, with a warning


def test_bentoml_client_embeds(client: Any, image_folder: Path, encode: Encode) -> None:
    paths = sorted(image_folder.rglob("*.jpg"))[:3]
    answer = client.embed(images=paths)
    expected = np.stack([encode(path.read_bytes()) for path in paths])
    np.testing.assert_allclose(answer["embeddings"], expected, atol=1e-5)


def test_bentoml_client_searches(client: Any, image_folder: Path) -> None:
    by_image = client.search(image=image_folder / "discs" / "00.jpg", k=3)
    assert by_image["neighbours"][0]["key"] == "discs/00.jpg"
    assert len(by_image["neighbours"]) == 3
    by_key = client.search(key="discs/00.jpg", k=2, min_score=0.1, filter={"label": "discs"})
    assert {one["label"] for one in by_key["neighbours"]} == {"discs"}
    vector = client.embed(images=[image_folder / "discs" / "00.jpg"])["embeddings"][0]
    assert client.search(vector=vector, k=1)["neighbours"][0]["key"] == "discs/00.jpg"


def test_bentoml_client_is_told_what_is_wrong(client: Any) -> None:
    with pytest.raises(BentoMLException, match="unknown-key"):
        client.search(key="absent")


def test_the_description_is_of_this_service(service: Running) -> None:
    spec = service.client.get("/docs.json").json()
    assert set(spec["paths"]) >= {
        *("/embed", "/search", "/items", "/items/{key}", "/items/{key}/similar"),
        *("/items/{key}/thumbnail", "/status", "/livez", "/readyz", "/metrics"),
    }
    embed = spec["paths"]["/embed"]["post"]
    assert set(embed["requestBody"]["content"]) == {
        *("multipart/form-data", "application/json", "image/*", "application/octet-stream"),
    }
    assert {"200", "400", "413", "415", "422", "429"} <= set(embed["responses"])
    refusal = spec["components"]["schemas"]["Error"]["properties"]["error"]
    assert set(refusal["properties"]) == {"type", "message", "param"}
    assert "BentoML" not in spec["info"]["description"]


def test_every_reference_of_the_description_leads_somewhere(service: Running) -> None:
    spec = service.client.get("/docs.json").json()
    references = {piece.partition('"')[0] for piece in json.dumps(spec).split('"$ref": "#/')[1:]}
    assert references
    for reference in references:
        slot: Any = spec
        for name in reference.split("/"):
            slot = slot[name]


def test_every_described_operation_exists(service: Running) -> None:
    spec = service.client.get("/docs.json").json()
    for path, operations in spec["paths"].items():
        for method in operations:
            answer = service.client.request(method.upper(), re.sub("{.*?}", "absent", path))
            assert answer.status_code != 405, (method, path)
            if answer.status_code == 404:
                kind = answer.headers["x-error-type"]
                assert kind in ("unknown-key", "unknown-model"), (method, path)
