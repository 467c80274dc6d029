"""Images by URL, from a real server on this machine: what is fetched, and all that is refused."""

import asyncio
import base64
import json
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from serving.http.bodies import Upload, decode_upload
from serving.http.errors import Refusal
from serving.http.fetching import AT_ONCE, OF_ONE_REQUEST, Fetcher
from serving.http.in_flight import BytesInFlight
from serving.http.links import Address, is_public
from serving.http.settings import Settings
from tests.serving.http.conftest import Running, started
from tests.serving.http.elsewhere import HOST, Elsewhere, listening_elsewhere
from tests.serving.http.test_embed import Encode

MOST = 100_000


@pytest.fixture
def elsewhere(picture_bytes: bytes) -> Iterator[Elsewhere]:
    with listening_elsewhere(picture_bytes) as server:
        yield server


@dataclass
class Names:
    """A name server: for each question the next of its answers, the last one again and again."""

    answers: Sequence[Sequence[str]] = (["127.0.0.1"],)
    asked: list[str] = field(default_factory=list)

    def __call__(self, host: str, _port: int) -> Sequence[str]:
        self.asked.append(host)
        found = self.answers[min(len(self.asked), len(self.answers)) - 1]
        if not found:
            raise OSError("no such host")
        return found


def loopback_too(address: Address) -> bool:
    """The check of addresses for tests, whose only server is on this machine."""
    return str(address) == "127.0.0.1" or is_public(address)


def fetcher(
    server: Elsewhere,
    names: Names,
    allowed: Callable[[Address], bool] = loopback_too,
    **settings: Any,
) -> Fetcher:
    values = {"url_prefixes": server.base, "max_image_bytes": MOST, **settings}
    return Fetcher(Settings(**values), resolve=names, allowed=allowed)


def fetched(
    server: Elsewhere, *urls: str, names: Names | None = None, **options: Any
) -> list[bytes | Refusal]:
    """What comes of URLs; a name is one of the server's."""
    uploads = [
        decode_upload(url if "://" in url else server.base + url, f"images[{number}]")
        for number, url in enumerate(urls)
    ]
    share = BytesInFlight(10**9).open()

    async def main() -> list[Upload]:
        made = fetcher(server, names or Names(), **options)
        try:
            return await made.fill(uploads, share)
        finally:
            made.close()

    return [one.content for one in asyncio.run(main())]


def refused(outcome: bytes | Refusal) -> tuple[int, str]:
    assert isinstance(outcome, Refusal)
    assert outcome.param == "images[0]"
    for secret in ("127.0.0.1", "169.254", "10.", "192.168", "secret", "passwd", HOST):
        assert secret not in outcome.message
    return outcome.status, outcome.type


def test_a_good_image_comes_as_it_is(elsewhere: Elsewhere) -> None:
    names = Names()
    assert fetched(elsewhere, "good?size=3", names=names) == [elsewhere.picture]
    ((path, headers),) = elsewhere.asked
    assert path == "/shop/good?size=3"
    assert headers["Host"] == f"{HOST}:{elsewhere.port}"
    assert headers["Accept-Encoding"] == "identity"
    assert not {"Cookie", "Authorization", "Referer"} & set(headers)
    assert names.asked == [HOST]


def test_redirects_within_the_prefix_are_followed(elsewhere: Elsewhere) -> None:
    assert fetched(elsewhere, "relative", "hop2") == [elsewhere.picture] * 2
    assert refused(fetched(elsewhere, "hop3")[0]) == (422, "url-failed")
    assert len(elsewhere.asked) == 2 + 4 + 4


@pytest.mark.parametrize(
    "name",
    ["upwards", "outside", "metadata", "another-host", "another-port", "file"],
)
def test_redirects_to_elsewhere_are_not(elsewhere: Elsewhere, name: str) -> None:
    names = Names()
    assert refused(fetched(elsewhere, name, names=names)[0]) == (422, "url-not-allowed")
    assert len(elsewhere.asked) == len(names.asked) == 1


def test_a_redirect_is_resolved_and_checked_anew(elsewhere: Elsewhere) -> None:
    names = Names([["127.0.0.1"], ["169.254.169.254"]])
    assert refused(fetched(elsewhere, "hop0", names=names)[0]) == (422, "url-not-allowed")
    assert (len(elsewhere.asked), len(names.asked)) == (1, 2)


@pytest.mark.parametrize(
    "url",
    [
        *("http://images.test/shop/good", "http://127.0.0.1/shop/good", "https://evil.test/"),
        "http://images.test.evil/shop/good",
    ],
)
def test_what_is_not_under_a_prefix_is_not_even_resolved(elsewhere: Elsewhere, url: str) -> None:
    names = Names()
    assert refused(fetched(elsewhere, url, names=names)[0]) == (422, "url-not-allowed")
    assert not names.asked


@pytest.mark.parametrize(
    "addresses",
    [
        *(["127.0.0.1"], ["10.0.0.1"], ["169.254.169.254"], ["::1"], ["::ffff:127.0.0.1"]),
        *(["64:ff9b::7f00:1"], ["2002:7f00:1::"], ["fe80::1%lo"], ["0.0.0.0"], ["100.64.0.1"]),
        ["8.8.8.8", "127.0.0.1"],
    ],
)
def test_private_addresses_are_never_connected_to(
    elsewhere: Elsewhere, addresses: list[str]
) -> None:
    outcome = fetched(elsewhere, "good", names=Names([addresses]), allowed=is_public)
    assert refused(outcome[0]) == (422, "url-not-allowed")
    assert not elsewhere.asked


def test_the_address_that_was_checked_is_the_one_connected_to(elsewhere: Elsewhere) -> None:
    """Another answer to a second question, as in DNS rebinding, would reach no server."""
    names = Names([["127.0.0.1"], ["10.0.0.1"]])
    assert fetched(elsewhere, "good", names=names) == [elsewhere.picture]
    assert names.asked == [HOST]


def test_a_service_without_an_injected_check_refuses_this_machine(elsewhere: Elsewhere) -> None:
    settings = Settings(url_prefixes=f"http://localhost:{elsewhere.port}/")

    async def main() -> list[Upload]:
        upload = decode_upload(f"http://localhost:{elsewhere.port}/shop/good", "images[0]")
        return await Fetcher(settings).fill([upload], BytesInFlight(10**9).open())

    (outcome,) = asyncio.run(main())
    assert refused(outcome.content) == (422, "url-not-allowed")
    assert not elsewhere.asked


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("nowhere", (422, "url-failed")),
        ("gzip", (422, "url-failed")),
        ("shorter", (422, "url-failed")),
        ("no-http", (422, "url-failed")),
        ("nonsense", (422, "url-failed")),
        ("endless", (413, "too-many-bytes")),
        ("announced", (413, "too-many-bytes")),
    ],
)
def test_what_fails(elsewhere: Elsewhere, name: str, wanted: tuple[int, str]) -> None:
    assert refused(fetched(elsewhere, name)[0]) == wanted
    assert len(elsewhere.asked) == 1


def test_a_slow_image_does_not_hold_up_the_others(elsewhere: Elsewhere) -> None:
    slow, good = fetched(elsewhere, "slow", "good", url_seconds=0.5)
    assert refused(slow) == (422, "url-too-slow")
    assert good == elsewhere.picture


def test_unknown_hosts_and_closed_ports(elsewhere: Elsewhere) -> None:
    assert refused(fetched(elsewhere, "good", names=Names([[]]))[0]) == (422, "url-failed")
    closed = Elsewhere(b"", port=1)
    assert refused(fetched(closed, "good")[0]) == (422, "url-failed")


def test_the_next_address_is_tried_where_one_does_not_answer(
    elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And TLS asks for the name, and checks the certificate for it, at whatever address."""
    real = httpx.AsyncHTTPTransport.handle_async_request
    tried = []

    async def some_fail(self: httpx.AsyncHTTPTransport, request: httpx.Request) -> httpx.Response:
        tried.append((request.url.host, request.extensions["sni_hostname"]))
        if request.url.host != "127.0.0.1":
            raise httpx.ConnectError("unreachable")
        return await real(self, request)

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", some_fail)
    names = Names([["2606:4700::1", "127.0.0.1"]])
    assert fetched(elsewhere, "good", names=names) == [elsewhere.picture]
    assert tried == [("2606:4700::1", HOST), ("127.0.0.1", HOST)]
    certificates = fetcher(elsewhere, Names())._certificates
    assert certificates.check_hostname
    assert certificates.verify_mode == ssl.CERT_REQUIRED


def test_proxies_of_the_environment_are_not_used(
    elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert fetched(elsewhere, "good") == [elsewhere.picture]


def test_cookies_are_not_kept(elsewhere: Elsewhere) -> None:
    assert fetched(elsewhere, "cookie", "cookie") == [elsewhere.picture] * 2
    assert not any("Cookie" in headers for _, headers in elsewhere.asked)


def test_one_request_has_its_share_of_the_fetches_at_once(elsewhere: Elsewhere) -> None:
    count = 2 * OF_ONE_REQUEST
    assert count <= AT_ONCE

    def open_when_full() -> None:
        while elsewhere.at_once < OF_ONE_REQUEST:
            assert not elsewhere.over.wait(0.01)
        elsewhere.over.set()

    watch = threading.Thread(target=open_when_full)
    watch.start()
    assert fetched(elsewhere, *["counted"] * count) == [elsewhere.picture] * count
    watch.join()
    assert elsewhere.most_at_once == OF_ONE_REQUEST


def test_a_request_fetches_no_more_bytes_than_it_might_have_sent(elsewhere: Elsewhere) -> None:
    size = len(elsewhere.picture)
    outcomes = fetched(elsewhere, *["good"] * 3, max_body_bytes=2 * size + 1)
    assert sum(isinstance(one, bytes) for one in outcomes) == 2
    (refusal,) = [one for one in outcomes if isinstance(one, Refusal)]
    assert (refusal.status, refusal.type) == (413, "body-too-large")


# Through the service


@pytest.fixture(scope="module")
def running(tiny_encoder: Path, collection_folder: Path) -> Iterator[Running]:
    settings = Settings(
        encoder=tiny_encoder, collection=collection_folder, url_prefixes="https://images.test/"
    )
    with started(settings) as service:
        yield service


@pytest.fixture
def open_service(running: Running, elsewhere: Elsewhere) -> Running:
    """The service with a fetcher that may ask the server of this test."""
    assert running.engine.fetcher is not None
    running.engine.fetcher.close()
    running.engine.fetcher = fetcher(elsewhere, Names())
    return running


def test_every_form_of_input_takes_urls(
    open_service: Running, elsewhere: Elsewhere, encode: Encode
) -> None:
    client, url, wanted = open_service.client, elsewhere.base + "good", encode(elsewhere.picture)

    def near(vector: object) -> None:
        np.testing.assert_allclose(np.asarray(vector, np.float32), wanted, atol=1e-5)

    answer = client.post("/embed", json={"images": [url]})
    near(answer.json()["embeddings"][0])
    assert answer.headers["server-timing"].startswith("fetch;dur=")
    near(client.post("/embed", data={"images": url}).json()["embeddings"][0])
    openai = client.post("/v1/embeddings", json={"input": [{"image_url": {"url": url}}, url]})
    for entry in openai.json()["data"]:
        near(entry["embedding"])
    text = base64.b64encode(elsewhere.picture).decode()
    tensor = {"name": "encoded", "datatype": "BYTES", "shape": [2], "data": [url, text]}
    kserve = client.post("/v2/models/lookalike/infer", json={"inputs": [tensor]})
    near(kserve.json()["outputs"][0]["data"][: len(wanted)])
    found = client.post("/search", json={"image": url, "k": 1})
    assert found.json()["query"]["width"] > 0
    assert len(found.json()["neighbours"]) == 1


def test_an_element_of_a_binary_tensor_may_be_a_url(
    open_service: Running, elsewhere: Elsewhere, encode: Encode
) -> None:
    url = (elsewhere.base + "good").encode()
    data = len(url).to_bytes(4, "little") + url
    parameters = {"binary_data_size": len(data)}
    tensor = {"name": "encoded", "datatype": "BYTES", "shape": [1], "parameters": parameters}
    head = json.dumps({"inputs": [tensor]}).encode()
    answer = open_service.client.post(
        "/v2/models/lookalike/infer",
        content=head + data,
        headers={"Inference-Header-Content-Length": str(len(head))},
    )
    vector = answer.json()["outputs"][0]["data"]
    np.testing.assert_allclose(vector, encode(elsewhere.picture), atol=1e-5)


def test_an_item_is_added_from_a_url(open_service: Running, elsewhere: Elsewhere) -> None:
    items = [{"key": "from/url", "image": elsewhere.base + "good"}]
    answer = open_service.client.post("/items", json={"items": items})
    assert answer.status_code == 201
    thumbnail = open_service.client.get("/items/from%2Furl/thumbnail")
    assert thumbnail.content[8:12] == b"WEBP"
    bad = [{"key": "a", "image": elsewhere.base + "good"}, {"key": "b", "image": elsewhere.base}]
    assert open_service.error(open_service.client.post("/items", json={"items": bad}))[:2] == (
        422,
        "url-failed",
    )
    assert open_service.client.get("/items/a").status_code == 404


def test_what_does_not_come_is_refused_by_itself(
    open_service: Running, elsewhere: Elsewhere
) -> None:
    names = ["good", "nowhere", "text", "empty", "metadata"]
    urls = [elsewhere.base + name for name in names]
    answer = open_service.client.post("/embed", json={"images": urls})
    assert answer.status_code == 200
    assert [vector is not None for vector in answer.json()["embeddings"]] == [True] + [False] * 4
    assert [(one["index"], one["type"]) for one in answer.json()["errors"]] == [
        (1, "url-failed"),
        (2, "not-an-image"),
        (3, "empty"),
        (4, "url-not-allowed"),
    ]
    assert open_service.engine.batcher.admitted == 0
    while open_service.engine.bytes_in_flight.held:  # given back a moment after the answer
        open_service.client.get("/livez")


def test_without_prefixes_nothing_is_fetched(service: Running) -> None:
    assert service.engine.fetcher is None
    url = "http://127.0.0.1:1/x.png"
    for body, path in (
        ({"images": url}, "/embed"),
        ({"input": url}, "/v1/embeddings"),
        (
            {"inputs": [{"name": "encoded", "datatype": "BYTES", "shape": [1], "data": [url]}]},
            "/v2/models/lookalike/infer",
        ),
    ):
        answer = service.client.post(path, json=body)
        assert service.error(answer)[:2] == (422, "url-not-allowed")
