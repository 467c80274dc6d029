"""Fetching images from a real server on this machine: what is fetched, and what is refused."""

import asyncio
import ssl
import threading
from typing import Any

import httpx
import pytest

from serving.http.policy.settings import Settings
from serving.http.policy.url_policy import is_public
from serving.http.request.errors import HttpError
from serving.http.request.fetching import AT_ONCE, OF_ONE_REQUEST, Fetcher
from serving.http.request.in_flight import BytesInFlight
from serving.http.request.uploads import Upload, decode_upload
from tests.serving.http.request.elsewhere import HOST, Elsewhere, Names, fetcher


def fetched(
    server: Elsewhere, *urls: str, names: Names | None = None, **options: Any
) -> list[bytes | HttpError]:
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


def refused(outcome: bytes | HttpError) -> tuple[int, str]:
    assert isinstance(outcome, HttpError)
    assert outcome.param == "images[0]"
    for secret in ("127.0.0.1", "169.254", "10.", "192.168", "secret", "passwd", HOST):
        assert secret not in outcome.message
    return outcome.status, outcome.type


def test_a_good_image_comes_as_it_is(elsewhere: Elsewhere) -> None:
    names = Names()
    assert fetched(elsewhere, "good?size=3", names=names) == [elsewhere.image]
    ((path, headers),) = elsewhere.requests
    assert path == "/shop/good?size=3"
    assert headers["Host"] == f"{HOST}:{elsewhere.port}"
    assert headers["Accept-Encoding"] == "identity"
    assert not {"Cookie", "Authorization", "Referer"} & set(headers)
    assert names.hosts == [HOST]


def test_redirects_within_the_prefix_are_followed(elsewhere: Elsewhere) -> None:
    assert fetched(elsewhere, "relative", "hop2") == [elsewhere.image] * 2
    assert refused(fetched(elsewhere, "hop3")[0]) == (422, "url-failed")
    assert len(elsewhere.requests) == 2 + 4 + 4


@pytest.mark.parametrize(
    "name",
    ["upwards", "outside", "metadata", "another-host", "another-port", "file"],
)
def test_redirects_to_elsewhere_are_not(elsewhere: Elsewhere, name: str) -> None:
    names = Names()
    assert refused(fetched(elsewhere, name, names=names)[0]) == (422, "url-not-allowed")
    assert len(elsewhere.requests) == len(names.hosts) == 1


def test_a_redirect_is_resolved_and_checked_anew(elsewhere: Elsewhere) -> None:
    names = Names([["127.0.0.1"], ["169.254.169.254"]])
    assert refused(fetched(elsewhere, "hop0", names=names)[0]) == (422, "url-not-allowed")
    assert (len(elsewhere.requests), len(names.hosts)) == (1, 2)


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
    assert not names.hosts


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
    assert not elsewhere.requests


def test_the_address_that_was_checked_is_the_one_connected_to(elsewhere: Elsewhere) -> None:
    """Another answer to a second question, as in DNS rebinding, would reach no server."""
    names = Names([["127.0.0.1"], ["10.0.0.1"]])
    assert fetched(elsewhere, "good", names=names) == [elsewhere.image]
    assert names.hosts == [HOST]


def test_a_service_without_an_injected_check_refuses_this_machine(elsewhere: Elsewhere) -> None:
    settings = Settings(url_prefixes=f"http://localhost:{elsewhere.port}/")

    async def main() -> list[Upload]:
        upload = decode_upload(f"http://localhost:{elsewhere.port}/shop/good", "images[0]")
        return await Fetcher(settings).fill([upload], BytesInFlight(10**9).open())

    (outcome,) = asyncio.run(main())
    assert refused(outcome.content) == (422, "url-not-allowed")
    assert not elsewhere.requests


@pytest.mark.parametrize(
    ("name", "expected"),
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
def test_what_fails(elsewhere: Elsewhere, name: str, expected: tuple[int, str]) -> None:
    assert refused(fetched(elsewhere, name)[0]) == expected
    assert len(elsewhere.requests) == 1


def test_a_slow_image_does_not_hold_up_the_others(elsewhere: Elsewhere) -> None:
    slow, good = fetched(elsewhere, "slow", "good", url_seconds=0.5)
    assert refused(slow) == (422, "url-too-slow")
    assert good == elsewhere.image


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
    assert fetched(elsewhere, "good", names=names) == [elsewhere.image]
    assert tried == [("2606:4700::1", HOST), ("127.0.0.1", HOST)]
    certificates = fetcher(elsewhere, Names())._certificates
    assert certificates.check_hostname
    assert certificates.verify_mode == ssl.CERT_REQUIRED


def test_proxies_of_the_environment_are_not_used(
    elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert fetched(elsewhere, "good") == [elsewhere.image]


def test_cookies_are_not_kept(elsewhere: Elsewhere) -> None:
    assert fetched(elsewhere, "cookie", "cookie") == [elsewhere.image] * 2
    assert not any("Cookie" in headers for _, headers in elsewhere.requests)


def test_one_request_has_its_share_of_the_fetches_at_once(elsewhere: Elsewhere) -> None:
    count = 2 * OF_ONE_REQUEST
    assert count <= AT_ONCE

    def open_when_full() -> None:
        while elsewhere.at_once < OF_ONE_REQUEST:
            assert not elsewhere.over.wait(0.01)
        elsewhere.over.set()

    watch = threading.Thread(target=open_when_full)
    watch.start()
    assert fetched(elsewhere, *["counted"] * count) == [elsewhere.image] * count
    watch.join()
    assert elsewhere.most_at_once == OF_ONE_REQUEST


def test_a_request_fetches_no_more_bytes_than_it_might_have_sent(elsewhere: Elsewhere) -> None:
    size = len(elsewhere.image)
    outcomes = fetched(elsewhere, *["good"] * 3, max_body_bytes=2 * size + 1)
    assert sum(isinstance(one, bytes) for one in outcomes) == 2
    (refusal,) = [one for one in outcomes if isinstance(one, HttpError)]
    assert (refusal.status, refusal.type) == (413, "body-too-large")
