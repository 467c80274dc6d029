"""Scripts of other web sites: none by default, named ones with their key, `*` only to read."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from base.errors import UsageError
from serving.http.policy.cors import read_origins
from serving.http.policy.settings import Settings
from tests.serving.http.conftest import Running, started

SITE, OTHER = "https://www.example.com", "https://evil.example"
KEY, READ = "a-write-key", "a-read-key"


def from_site(origin: str, **headers: str) -> dict[str, str]:
    """What a browser sends along."""
    return {"Origin": origin, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors", **headers}


def asking(origin: str, method: str = "POST") -> dict[str, str]:
    """What it asks before it sends a key or JSON."""
    expected = "authorization,content-type"
    return from_site(
        origin,
        **{"Access-Control-Request-Method": method, "Access-Control-Request-Headers": expected},
    )


@pytest.fixture(scope="module")
def open_to_site(tiny_encoder: Path, collection_folder: Path) -> Iterator[Running]:
    settings = Settings(
        encoder=tiny_encoder,
        collection=collection_folder,
        read_key=READ,
        write_key=KEY,
        cors_origins=f"{SITE}:443, http://localhost:5173",
    )
    with started(settings) as running:
        yield running


@pytest.mark.parametrize("path", ["/embed", "/items", "/items/some%2Fkey", "/v1/embeddings"])
@pytest.mark.parametrize("origin", [SITE, "http://localhost:5173"])
def test_a_preflight_is_answered_without_a_key(
    open_to_site: Running, path: str, origin: str
) -> None:
    answer = open_to_site.client.options(path, headers=asking(origin, "DELETE"))
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == origin
    assert "DELETE" in answer.headers["access-control-allow-methods"]
    allowed = answer.headers["access-control-allow-headers"].lower().split(", ")
    assert {"authorization", "content-type", "x-api-key"} <= set(allowed)
    assert answer.headers["vary"] == "Origin"
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize(
    "origin", [OTHER, "null", f"{SITE}.evil.example", "http://www.example.com", f"{SITE}:8443"]
)
def test_other_sites_get_nothing(open_to_site: Running, origin: str) -> None:
    client, key = open_to_site.client, {"X-API-Key": KEY}
    preflight = client.options("/embed", headers=asking(origin))
    read = client.get("/items", headers=from_site(origin, **key))
    written = client.delete("/items/none", headers=from_site(origin, **key))
    assert open_to_site.error(preflight)[0] == 401
    assert open_to_site.error(written)[:2] == (403, "cross-site")
    for answer in (preflight, read, written):
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert answer.headers["vary"] == "Origin"


def test_a_named_site_does_what_its_key_allows(open_to_site: Running, image_bytes: bytes) -> None:
    client = open_to_site.client
    sent = from_site(SITE, Authorization=f"Bearer {READ}")
    embedded = client.post("/embed", files={"images": image_bytes}, headers=sent)
    assert embedded.status_code == 200
    assert "Lookalike-Encoder" in embedded.headers["access-control-expose-headers"]
    image = client.get("/items/discs%2F00.jpg", headers=sent)
    refused = client.delete("/items/none", headers=sent)
    assert open_to_site.error(refused)[:2] == (403, "forbidden")
    unknown = client.get("/items", headers=from_site(SITE))
    assert open_to_site.error(unknown)[0] == 401
    deleted = client.delete("/items/none", headers=from_site(SITE, **{"X-API-Key": KEY}))
    assert open_to_site.error(deleted)[:2] == (404, "unknown-key")
    for answer in (embedded, image, refused, unknown, deleted):  # a site sees why it is refused
        assert answer.headers["access-control-allow-origin"] == SITE


def test_programs_are_not_touched(open_to_site: Running) -> None:
    answer = open_to_site.client.get("/items", headers={"X-API-Key": KEY})
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers
    options = open_to_site.client.options("/items", headers={"X-API-Key": KEY})
    assert open_to_site.error(options)[:2] == (405, "method-not-allowed")


def test_by_default_no_site_gets_anything(service: Running) -> None:
    for answer in (
        service.client.options("/embed", headers=asking(SITE)),
        service.client.get("/items", headers=from_site(SITE)),
    ):
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert "vary" not in answer.headers


def test_every_site_may_read_what_is_open_to_all(tiny_encoder: Path, image_bytes: bytes) -> None:
    settings = Settings(encoder=tiny_encoder, insecure=True, cors_origins="*")
    with started(settings) as running:
        read = running.client.get("/v1/models", headers=from_site(OTHER))
        assert (read.status_code, read.headers["access-control-allow-origin"]) == (200, OTHER)
        written = running.client.delete("/items/x", headers=from_site(OTHER))
        assert running.error(written)[:2] == (403, "cross-site")


@pytest.mark.parametrize("settings", [{}, {"write_key": KEY}, {"read_key": READ, "insecure": True}])
def test_not_from_a_service_that_is_not(settings: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="name the sites"):
        Settings(cors_origins="*", **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "origin",
    [
        *("www.example.com", "https://www.example.com/", "https://*.example.com", "null"),
        *("ftp://a.com", "https://a.com:0", "https://u@a.com", "https://a.com/x", "https://"),
    ],
)
def test_what_is_not_an_origin(origin: str) -> None:
    with pytest.raises(UsageError, match="without a path, such as"):
        Settings(cors_origins=origin)


def test_origins_as_browsers_write_them() -> None:
    origins = read_origins("HTTPS://A.com:443, http://[::1]:80,http://b.com:8080")
    assert origins.named == {"https://a.com", "http://[::1]", "http://b.com:8080"}
    assert read_origins(" ").empty
