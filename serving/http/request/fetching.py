"""Images that requests name by URL instead of sending them; only where prefixes are set for it.

A client chooses what this machine connects to, so: the URL must be under one of the prefixes
(`url_policy`); its host is resolved once, every address must be public, and the connection is made
to one of those very addresses, with the host's name in the Host header and for the certificate; a
redirect is a new URL with all of that again; bytes are counted as they come, compressed answers are
not taken, and everything together has a limit of time. No proxy, no cookies, no credentials. A
connection is for one request only: one of TLS was checked for one name.

Nothing that fails here fails the request: the image has its refusal instead.
"""

import asyncio
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from http import HTTPStatus
from typing import TypeVar
from urllib.parse import urljoin

import httpx

from base.errors import ImageRefused, RefusalReason
from serving.http.policy.settings import Settings
from serving.http.policy.url_policy import Address, Link, is_public, read_link, read_prefixes
from serving.http.request.errors import HttpError, of_image
from serving.http.request.in_flight import Share
from serving.http.request.request_body import body_too_large
from serving.http.request.uploads import Upload
from serving.http.telemetry import timing

AT_ONCE = 32
OF_ONE_REQUEST = 8
MOST_REDIRECTS = 3
MOST_ADDRESSES = 3  # tried one after the other
REDIRECTS = (301, 302, 303, 307, 308)
HEADERS = {"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "lookalike"}

T = TypeVar("T")
Resolve = Callable[[str, int], Sequence[str]]


def addresses_of(host: str, port: int) -> list[str]:
    """Return what the system resolves a host to; raises OSError where it cannot."""
    entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(one[4][0]) for one in entries))


class Fetcher:
    """Fetches images by URL; made once for a service.

    Args:
        settings: prefixes and limits.
        resolve: a host and a port to addresses.
        allowed: whether an address may be connected to. Only tests have another one.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        resolve: Resolve = addresses_of,
        allowed: Callable[[Address], bool] = is_public,
    ) -> None:
        self._settings = settings
        self._prefixes = read_prefixes(settings.url_prefixes)
        self._resolve = resolve
        self._allowed = allowed
        self._slots = asyncio.Semaphore(AT_ONCE)
        # Its own threads: a name server that hangs holds up nothing but other fetches.
        self._resolvers = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="resolve")

    @cached_property
    def _certificates(self) -> ssl.SSLContext:
        return httpx.create_ssl_context()

    def close(self) -> None:
        """Release the threads."""
        self._resolvers.shutdown(wait=False, cancel_futures=True)

    async def fill(self, uploads: Sequence[Upload], share: Share) -> list[Upload]:
        """Return the same uploads; those with a URL have the image or its refusal.

        Args:
            uploads: of one request.
            share: of the bytes in flight; fetched ones count as if they had been sent.
        """
        begun = time.perf_counter()
        counted = _Counted(share, self._settings.max_body_bytes)
        slots = asyncio.Semaphore(OF_ONE_REQUEST)

        async def filled(upload: Upload) -> Upload:
            if upload.url is None:
                return upload
            return replace(upload, content=await self._content(upload, slots, counted))

        outcomes = await asyncio.gather(*map(filled, uploads))
        timing.note("fetch", time.perf_counter() - begun)
        return outcomes

    async def _content(
        self, upload: Upload, slots: asyncio.Semaphore, counted: "_Counted"
    ) -> bytes | HttpError:
        assert upload.url is not None
        seconds = self._settings.url_seconds
        try:
            async with asyncio.timeout(seconds), slots, self._slots:
                return await self._fetch(upload.url, counted)
        except TimeoutError:
            message = f"{upload.param} did not come from its URL within {seconds:g} s"
            return HttpError(
                HTTPStatus.UNPROCESSABLE_ENTITY, "url-too-slow", message, param=upload.param
            )
        except ImageRefused as refused:
            return of_image(refused, upload.param)
        except HttpError as refusal:
            return _named(refusal, upload.param)
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, ValueError):
            return _named(_failed("the connection failed"), upload.param)

    async def _fetch(self, url: str, counted: "_Counted") -> bytes:
        for _ in range(MOST_REDIRECTS + 1):
            link = self._checked(url)
            answer = await self._ask(link, counted)
            if isinstance(answer, bytes):
                return answer
            url = urljoin(str(link), answer)
        raise _failed(f"it is redirected more than {MOST_REDIRECTS} times")

    def _checked(self, url: str) -> Link:
        """Return the URL, split, if it is under a prefix."""
        link = read_link(url)
        if link is None or not any(prefix.covers(link) for prefix in self._prefixes):
            raise _not_allowed("it is not, or is redirected, where this service fetches images")
        return link

    async def _addresses(self, link: Link) -> list[Address]:
        """Where to connect: all that the host has, if all of them are public."""
        try:
            texts = await self._in_thread(self._resolve, link.host, link.port)
        except (OSError, UnicodeError) as error:
            raise _failed("its host is not known") from error
        addresses = [ipaddress.ip_address(text.partition("%")[0]) for text in texts]
        if not addresses:
            raise _failed("its host is not known")
        if not all(map(self._allowed, addresses)):
            raise _not_allowed("its host is not one of the public internet")
        return addresses[:MOST_ADDRESSES]

    async def _in_thread(self, work: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._resolvers, work, *arguments)

    async def _ask(self, link: Link, counted: "_Counted") -> bytes | str:
        """One answer: the image, or where else it is."""
        addresses = await self._addresses(link)
        trusted = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # unused: http has no certificates
        if link.scheme == "https":
            trusted = await self._in_thread(lambda: self._certificates)  # read from files
        async with httpx.AsyncHTTPTransport(
            verify=trusted,
            trust_env=False,
            limits=httpx.Limits(max_keepalive_connections=0),
        ) as transport:
            for last, address in enumerate(addresses, 1 - len(addresses)):
                request = httpx.Request(
                    "GET",
                    link.at(address),
                    headers={"Host": link.authority, **HEADERS},
                    extensions={"sni_hostname": link.host},
                )
                try:
                    response = await transport.handle_async_request(request)
                except httpx.ConnectError:
                    if last == 0:
                        raise
                    continue
                try:
                    return await self._read(response, counted)
                finally:
                    await response.aclose()
        raise AssertionError("there is at least one address")

    async def _read(self, response: httpx.Response, counted: "_Counted") -> bytes | str:
        headers = response.headers
        if response.status_code in REDIRECTS and "location" in headers:
            return str(headers["location"])
        if response.status_code != HTTPStatus.OK:
            raise _failed(f"it is answered with status {response.status_code}")
        if headers.get("content-encoding", "identity").strip().lower() != "identity":
            raise _failed("it is sent compressed, although that was not requested")
        most = self._settings.max_image_bytes
        announced = headers.get("content-length", "")
        if announced.isdecimal() and int(announced[:20]) > most:
            raise _too_large(most)
        content = bytearray()
        async for chunk in response.aiter_raw():
            if len(content) + len(chunk) > most:
                raise _too_large(most)
            counted.take(len(chunk))
            content += chunk
        return bytes(content)


class _Counted:
    """The bytes fetched for one request: no more than it might have sent."""

    def __init__(self, share: Share, limit: int) -> None:
        self._share = share
        self._limit = limit
        self._held = 0

    def take(self, count: int) -> None:
        self._held += count
        if self._held > self._limit:
            raise body_too_large(self._limit)
        self._share.take(count)


def _named(refusal: HttpError, param: str) -> HttpError:
    refusal.message, refusal.param = f"{param}: {refusal.message}", param
    return refusal


def _not_allowed(why: str) -> HttpError:
    message = f"{why}: send the image itself"
    return HttpError(HTTPStatus.UNPROCESSABLE_ENTITY, "url-not-allowed", message)


def _failed(why: str) -> HttpError:
    message = f"the image could not be fetched: {why}"
    return HttpError(HTTPStatus.UNPROCESSABLE_ENTITY, "url-failed", message)


def _too_large(most: int) -> ImageRefused:
    message = f"the image at the URL has more bytes than the {most} that are taken"
    return ImageRefused(RefusalReason.TOO_MANY_BYTES, message)
