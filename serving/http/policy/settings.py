"""The one place that reads the service's environment.

Every field of `Settings` is read from `LOOKALIKE_` and its name in capitals: `max_images` from
`LOOKALIKE_MAX_IMAGES`. `LOOKALIKE_API_KEY` is short for one key that reads and writes; keys may
stand in files too (`keys`), and all of them count. A variable that begins with `LOOKALIKE_` and
names no setting is refused, because a mistyped key or limit would otherwise be a silent hole; what
Kubernetes sets for a Service with our name (`service_links`) is not.

Not pydantic-settings (2.16, tried): it ignores an unknown variable instead of refusing it, takes
`3.0` for a whole number, and its errors do not name the variable, so that checks and messages would
be written by hand as here; and it costs 0.15 s of processor time at each start, with two packages.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from base.errors import UsageError
from base.text import nearest
from images.pixels.decode import DEFAULT_MAX_PIXELS
from serving.collection.contract.locations import Location, location_of
from serving.http.policy.cors import Origins, read_origins
from serving.http.policy.keys import KeyFile, check_key, split_keys
from serving.http.policy.proxies import check_proxies
from serving.http.policy.service_links import is_service_link
from serving.http.policy.url_policy import read_prefixes

PREFIX = "LOOKALIKE_"
MEBIBYTE = 2**20


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The files of one service and what it allows; checked where it is built.

    Attributes:
        encoder: the encoder file; None looks for the encoder that a bento carries.
        collection: the folder or milvus:// URL to search; None serves embeddings only.
        thumbnails: where small images of uploaded images are kept; None keeps them in the
            collection's folder, and not at all for a collection in Milvus.
        read_key: keys that may embed and search, separated by commas.
        write_key: keys that may also add and delete, separated by commas.
        api_key_file: a file of keys that read and write, one a line.
        read_key_file: a file of keys that may embed and search.
        write_key_file: the same as `api_key_file`, for the pair with `read_key_file`.
        metrics_key: keys that may read /metrics and nothing else, beside the other keys.
        metrics_key_file: a file of such keys.
        open_metrics: let everyone read /metrics, who can connect.
        insecure: serve without a key although other machines can connect.
        trusted_proxies: addresses or networks of proxies, separated by commas, whose
            X-Forwarded-For and X-Forwarded-Proto are believed; empty believes nobody's.
        url_prefixes: where images may be fetched from that are named by URL, separated by commas;
            empty fetches nothing.
        cors_origins: other web sites whose scripts may call the service, separated by commas; `*`
            lets every site read, where there is no key and `insecure`.
        access_log: write a line of JSON on standard error for each request.
        workers: processes that share the work; `lookalike serve` alone starts several.
        threads: of the encoder's session, in each worker; None takes the CPUs this process may use,
            or a worker's share of them.
        max_body_bytes: of one request, before it is read.
        max_bytes_in_flight: of all requests' bodies together; more are answered 429.
        max_image_bytes: of one encoded image.
        max_pixels: of one image, before it is decoded.
        max_decode_bytes: of all images together that a process decodes at once, but for small
            ones; None takes half of the memory that is available, or a worker's share of it, and
            2 GiB at most. An image that alone needs more is answered 413.
        max_images: of one request.
        max_neighbours: the largest `k`.
        max_batch: images the encoder sees at once.
        max_queue: images admitted at once over all requests; more are answered 429.
        max_connections: of one process; more close the one that has waited longest. The system's
            limit of open files may allow fewer.
        keep_alive_seconds: how long a connection without a request stays open; longer than a
            proxy's own time, or the proxy sends requests into closed ones.
        url_seconds: how long an image may take to come from its URL, redirects and all.
        body_seconds: how long a client may take to send its request.
        request_seconds: how long one request may take altogether.
    """

    encoder: Path | None = None
    collection: Location | None = None
    thumbnails: Path | None = None
    read_key: str = field(default="", repr=False)
    write_key: str = field(default="", repr=False)
    api_key_file: KeyFile | None = None
    read_key_file: KeyFile | None = None
    write_key_file: KeyFile | None = None
    metrics_key: str = field(default="", repr=False)
    metrics_key_file: KeyFile | None = None
    open_metrics: bool = False
    insecure: bool = False
    trusted_proxies: str = ""
    url_prefixes: str = ""
    cors_origins: str = ""
    access_log: bool = False
    workers: int = 1
    threads: int | None = None
    max_body_bytes: int = 64 * MEBIBYTE
    max_bytes_in_flight: int = 512 * MEBIBYTE
    max_image_bytes: int = 32 * MEBIBYTE
    max_pixels: int = DEFAULT_MAX_PIXELS
    max_decode_bytes: int | None = None
    max_images: int = 64
    max_neighbours: int = 1000
    max_batch: int = 32
    max_queue: int = 256
    max_connections: int = 4096
    keep_alive_seconds: int = 75
    url_seconds: float = 10.0
    body_seconds: float = 30.0
    request_seconds: float = 60.0

    def __post_init__(self) -> None:
        for name in POSITIVE:
            value = getattr(self, name)
            if value is not None and not value > 0:  # refuses NaN too
                raise UsageError(f"{name} is {value}: give a number above 0")
        if self.max_body_bytes > self.max_bytes_in_flight:
            raise UsageError(
                f"max_body_bytes is {self.max_body_bytes}, more than max_bytes_in_flight "
                f"{self.max_bytes_in_flight}: such a request would never be admitted"
            )
        if self.max_images > self.max_queue:
            raise UsageError(
                f"max_images is {self.max_images}, more than max_queue {self.max_queue}: "
                "such a request would never be admitted"
            )
        if read_prefixes(self.url_prefixes) and self.url_seconds >= self.request_seconds:
            raise UsageError(
                f"url_seconds is {self.url_seconds:g}, request_seconds {self.request_seconds:g}: "
                "leave a request more time than an image of it"
            )
        if self.origins.any_may_read and (self.has_keys or not self.insecure):
            raise UsageError(
                "cors_origins has *: every site may read only from a service without keys that is "
                "open to all (--insecure); name the sites, such as https://www.example.com"
            )
        check_proxies(self.trusted_proxies)
        for text in (self.read_key, self.write_key, self.metrics_key):
            for key in split_keys(text):
                check_key(key)

    @cached_property
    def origins(self) -> Origins:
        """Other web sites that may call the service."""
        return read_origins(self.cors_origins)

    @property
    def read_keys(self) -> tuple[str, ...]:
        """Keys that may embed and search."""
        return (*split_keys(self.read_key), *_keys_in(self.read_key_file))

    @property
    def write_keys(self) -> tuple[str, ...]:
        """Keys that may also add and delete."""
        files = (self.api_key_file, self.write_key_file)
        return (*split_keys(self.write_key), *(key for one in files for key in _keys_in(one)))

    @property
    def metrics_keys(self) -> tuple[str, ...]:
        """Keys that may read /metrics and nothing else."""
        return (*split_keys(self.metrics_key), *_keys_in(self.metrics_key_file))

    @property
    def has_keys(self) -> bool:
        """Whether clients need a key."""
        return bool(self.read_keys or self.write_keys)


FULL_KEY = f"{PREFIX}API_KEY"
KINDS: dict[str, Any] = {entry.name: entry.type for entry in fields(Settings)}
POSITIVE = tuple(name for name, kind in KINDS.items() if kind in (int, int | None, float))


def from_environment(environ: Mapping[str, str]) -> Settings:
    """Read the settings; an empty variable counts as absent.

    Raises:
        UsageError: an unknown variable (with the nearest name) or a value of the wrong kind.
    """
    values: dict[str, Any] = {}
    for variable, text in environ.items():
        if not variable.startswith(PREFIX) or not text or variable == FULL_KEY:
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name in KINDS:
            values[name] = _parse(variable, text, KINDS[name])
        elif not is_service_link(variable, text):
            near = nearest(name, [*KINDS, "api_key"])
            hint = f"did you mean {PREFIX}{near.upper()}?" if near else "no such setting"
            raise UsageError(f"{variable}: {hint}")
    if full := environ.get(FULL_KEY):  # beside write keys, if there are any
        values["write_key"] = ",".join(filter(None, (values.get("write_key"), full)))
    return Settings(**values)


def _parse(variable: str, text: str, kind: Any) -> object:
    try:
        return PARSERS[kind](text)
    except (ValueError, KeyError) as error:
        expected = EXPECTED[kind]
        raise UsageError(f"{variable} is {text!r}: {expected} is needed") from error


def _keys_in(file: KeyFile | None) -> tuple[str, ...]:
    return file.keys if file is not None else ()


PARSERS: dict[Any, Callable[[str], object]] = {
    Path | None: Path,
    Location | None: location_of,
    KeyFile | None: lambda text: KeyFile(Path(text)),
    str: str,
    int: int,
    int | None: int,
    float: float,
    bool: lambda text: {"1": True, "true": True, "0": False, "false": False}[text.lower()],
}
EXPECTED: dict[Any, str] = {
    int: "a whole number",
    int | None: "a whole number",
    float: "a number",
    bool: "1 or 0",
}
