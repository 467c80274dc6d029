"""Who may do what: keys, loopback only without them, no other web site."""

import itertools
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.datastructures import Headers

from serving.http.gate.auth import Need, check, is_loopback, need_of
from serving.http.policy.settings import Settings
from serving.http.request.errors import HttpError
from tests.serving.http.conftest import Running, started

READ, WRITE = "read-key-12345", "write-key-12345"
OPEN = [
    ("GET", "/"),
    ("GET", "/web/page.js"),
    ("GET", "/docs.json"),
    ("GET", "/openapi.json"),
    ("GET", "/health"),
    ("GET", "/livez"),
    ("GET", "/readyz"),
]
READING = [
    ("POST", "/embed"),
    ("POST", "/search"),
    ("GET", "/items"),
    ("GET", "/items/discs%2F00.jpg"),
    ("GET", "/items/discs%2F00.jpg/similar"),
    ("GET", "/items/discs%2F00.jpg/thumbnail"),
    ("GET", "/status"),
    ("GET", "/metrics"),
    ("GET", "/schema.json"),
    ("GET", "/nowhere"),
]
WRITING = [("POST", "/items"), ("DELETE", "/items/absent"), ("PUT", "/items"), ("POST", "/nowhere")]


@pytest.fixture(scope="module")
def locked(tiny_encoder: Path, collection_folder: Path) -> Iterator[Running]:
    settings = Settings(
        encoder=tiny_encoder,
        collection=collection_folder,
        read_key=f"rotated-{READ},{READ}",
        write_key=WRITE,
    )
    with started(settings) as running:
        yield running


@pytest.mark.parametrize(("method", "path"), OPEN)
def test_what_is_open(locked: Running, method: str, path: str) -> None:
    assert locked.client.request(method, path).status_code == 200


@pytest.mark.parametrize(("method", "path"), READING + WRITING)
@pytest.mark.parametrize("key", [None, "unknown-key-12345", "schlüssel"])
def test_without_a_known_key(locked: Running, method: str, path: str, key: str | None) -> None:
    headers = {b"X-API-Key": key.encode("latin-1")} if key else {}
    answer = locked.client.request(method, path, headers=headers)
    assert locked.error(answer) == (401, "unauthorized", None)
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(("method", "path"), READING)
@pytest.mark.parametrize("key", [READ, f"rotated-{READ}", WRITE])
@pytest.mark.parametrize("bearer", [True, False])
def test_reading_with_either_key(
    locked: Running, method: str, path: str, key: str, bearer: bool
) -> None:
    headers = {"Authorization": f"Bearer {key}"} if bearer else {"X-API-Key": key}
    answer = locked.client.request(method, path, headers=headers)
    assert answer.status_code not in (401, 403), answer.text


@pytest.mark.parametrize(("method", "path"), WRITING)
def test_writing_with_a_read_key(locked: Running, method: str, path: str) -> None:
    answer = locked.client.request(method, path, headers={"X-API-Key": READ})
    assert locked.error(answer) == (403, "forbidden", None)


@pytest.mark.parametrize(("method", "path"), WRITING)
def test_writing_with_a_write_key(locked: Running, method: str, path: str) -> None:
    answer = locked.client.request(method, path, headers={"Authorization": f"bearer {WRITE}"})
    assert answer.status_code in (404, 405, 422), answer.text


def test_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every key is compared, by `hmac.compare_digest`, whether an earlier one fitted or not."""
    compared: list[tuple[bytes, bytes]] = []

    def compare(sent: bytes, key: bytes) -> bool:
        compared.append((sent, key))
        return sent == key

    monkeypatch.setattr("hmac.compare_digest", compare)
    settings = Settings(read_key="aaaaaaaa,bbbbbbbb", write_key="cccccccc,dddddddd")
    scope = {"type": "http", "method": "GET", "path": "/items"}
    check(scope, Headers({"x-api-key": "cccccccc"}), settings)
    assert len(compared) == 4


def test_the_need_of_anything_unknown_is_the_highest() -> None:
    assert need_of("PATCH", "/anything") is Need.WRITE
    assert need_of("POST", "/embed/../items") is Need.WRITE
    assert need_of("GET", "/items") is Need.READ
    assert need_of("POST", "/") is Need.WRITE


def refusal(settings: Settings, server: str, host: str, path: str = "/items") -> str | None:
    scope = {"type": "http", "method": "GET", "path": path, "server": (server, 3000)}
    try:
        check(scope, Headers({"host": host}), settings)
    except HttpError as refused:
        return refused.type
    return None


@pytest.mark.parametrize(
    ("server", "host", "expected"),
    [
        ("127.0.0.1", "127.0.0.1:3000", None),
        ("127.0.0.1", "localhost:3000", None),
        ("::1", "[::1]:3000", None),
        ("::ffff:127.0.0.1", "localhost", None),
        ("10.0.0.5", "10.0.0.5:3000", "no-api-key"),
        ("10.0.0.5", "localhost", "no-api-key"),
        ("172.17.0.2", "127.0.0.1:3000", "no-api-key"),
        ("127.0.0.1", "evil.example:3000", "foreign-host"),
        ("127.0.0.1", "127.0.0.1.evil.example", "foreign-host"),
        ("127.0.0.1", "", "foreign-host"),
        ("127.0.0.1", "[", "foreign-host"),
        ("127.0.0.1", "[::1", "foreign-host"),
    ],
)
def test_without_keys_only_loopback_is_served(server: str, host: str, expected: str | None) -> None:
    assert refusal(Settings(), server, host) == expected
    assert refusal(Settings(), server, host, "/livez") is None
    assert refusal(Settings(insecure=True), server, host) is None


SITES = [
    ({}, True),
    ({"origin": "http://127.0.0.1:3000"}, True),
    ({"origin": "https://evil.example"}, False),
    ({"origin": "http://127.0.0.1:4000"}, False),
    ({"origin": "null"}, False),
    ({"origin": "http://["}, False),
    ({"sec-fetch-site": "same-origin", "origin": "http://127.0.0.1:3000"}, True),
    ({"sec-fetch-site": "none"}, True),
    ({"sec-fetch-site": "cross-site"}, False),
    ({"sec-fetch-site": "same-site", "origin": "http://127.0.0.1:3000"}, False),
]


@pytest.mark.parametrize(
    ("site", "method"), list(itertools.product(SITES, ["POST", "DELETE", "GET"]))
)
def test_other_sites_change_nothing(site: tuple[dict[str, str], bool], method: str) -> None:
    headers, allowed = site
    scope = {"type": "http", "method": method, "path": "/items", "server": ("127.0.0.1", 3000)}
    request = Headers({"host": "127.0.0.1:3000", **headers})
    if allowed or method == "GET":
        check(scope, request, Settings())
        return
    with pytest.raises(HttpError) as refused:
        check(scope, request, Settings())
    assert refused.value.type == "cross-site"


def test_the_page_behind_a_proxy_is_the_services_own_where_there_is_a_key() -> None:
    scope = {"type": "http", "method": "POST", "path": "/search"}
    page = {"sec-fetch-site": "same-origin", "origin": "https://behind.a.proxy"}
    check(scope, Headers({"x-api-key": WRITE, **page}), Settings(write_key=WRITE))


def raw(service: Running, *head: str) -> bytes:
    """The answer to a head that is sent as it stands here, with a Host."""
    address = ("127.0.0.1", int(service.url.rpartition(":")[2]))
    lines = [*head, f"Host: 127.0.0.1:{address[1]}", "Connection: close", "", ""]
    with socket.create_connection(address, timeout=20) as connection:
        connection.sendall("\r\n".join(lines).encode())
        return b"".join(iter(lambda: connection.recv(2**16), b""))


PROXIED = [
    ({"X-Forwarded-For": "203.0.113.9"}, "1.1"),
    ({"x-forwarded-host": "shop.example"}, "1.1"),
    ({"X-Forwarded-Anything": "1"}, "1.1"),
    ({"Forwarded": "for=203.0.113.9"}, "1.1"),
    ({"Via": "1.1 varnish"}, "1.1"),
    ({"X-Real-IP": "203.0.113.9"}, "1.1"),
    ({"CF-Connecting-IP": "203.0.113.9"}, "1.1"),
    ({"Origin": "http://shop.example", "Sec-Fetch-Site": "same-origin"}, "1.1"),
    ({}, "1.0"),
]


@pytest.mark.parametrize(("sent", "version"), PROXIED)
def test_without_keys_a_proxy_opens_nothing(
    service: Running, sent: dict[str, str], version: str
) -> None:
    """Over a socket, as a proxy on the same machine with its default Host asks."""
    lines = [f"{name}: {text}" for name, text in sent.items()]
    for method, path, expected in (
        ("GET", "/items", b"403"),
        ("DELETE", "/items/discs%2F00.jpg", b"403"),
        ("GET", "/livez", b"200"),
    ):
        answer = raw(service, f"{method} {path} HTTP/{version}", *lines)
        assert answer.split()[1] == expected
        assert (b"no-api-key" in answer) == (expected == b"403")


def test_a_metrics_key_reads_metrics_alone(tiny_encoder: Path) -> None:
    with started(Settings(encoder=tiny_encoder, read_key=READ, metrics_key="scrape-12345")) as one:
        get, scraper = one.client.get, {"Authorization": "Bearer scrape-12345"}
        assert get("/metrics").status_code == 401
        assert "lookalike_requests_total" in get("/metrics", headers=scraper).text
        assert get("/metrics", headers={"X-API-Key": READ}).status_code == 200
        assert get("/status", headers=scraper).status_code == 401


def test_open_metrics_open_nothing_else(tiny_encoder: Path) -> None:
    with started(Settings(encoder=tiny_encoder, write_key=WRITE, open_metrics=True)) as one:
        assert one.client.get("/metrics").status_code == 200
        assert one.client.post("/metrics").status_code == 401
        assert one.client.get("/status").status_code == 401


def test_a_trailing_blank_is_not_of_the_key(locked: Running) -> None:
    for header in (
        f"X-API-Key: {READ} ",
        f"X-API-Key:\t{READ}",
        f"Authorization: Bearer  {READ}\t",
    ):
        assert raw(locked, "GET /status HTTP/1.1", header).split()[1] == b"200"


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("LOCALHOST", True),
        ("a.localhost", True),
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("[::1]", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.4", False),
        ("example.org", False),
        ("localhost.example.org", False),
        ("notlocalhost", False),
        ("", False),
    ],
)
def test_is_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
