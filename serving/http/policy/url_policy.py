"""Which URLs and which addresses images may be fetched from.

A URL is parsed once, strictly, and put together again from its components, so that nothing later
reads it in another way. A prefix covers a URL of the same scheme, host and port whose path is the
prefix's or continues behind a slash. Paths are compared after what needs no percent-encoding is
decoded; one that could lead upwards, however often it is encoded, is refused.
"""

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from base.errors import UsageError

SCHEMES = {"http": 80, "https": 443}
MOST_CHARACTERS = 2048
MOST_DECODINGS = 4
PLAIN = re.compile(r"[!-\[\]-~]+")  # printable ASCII without space and backslash
HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
NOT_PUBLIC = (  # what `is_global` of some Python versions lets pass
    ipaddress.ip_network("100.64.0.0/10"),  # carrier-grade NAT, RFC 6598
    ipaddress.ip_network("192.88.99.0/24"),  # relays of 6to4, RFC 7526
    ipaddress.ip_network("::/96"),  # IPv4-compatible, RFC 4291
    ipaddress.ip_network("64:ff9b:1::/48"),  # a network's own NAT64, RFC 8215
    ipaddress.ip_network("2001::/23"),  # Teredo and other protocols, RFC 2928
    ipaddress.ip_network("fec0::/10"),  # site-local, RFC 3879
)


@dataclass(frozen=True, slots=True)
class Link:
    """A URL, split into its components.

    Attributes:
        scheme: http or https.
        host: a name in lower case, or an address without brackets.
        port: also where the URL names none.
        path: begins with a slash; normalized.
        query: with its question mark, or empty.
    """

    scheme: str
    host: str
    port: int
    path: str
    query: str = ""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}{self.query}"

    @property
    def authority(self) -> str:
        """Host and port as in a Host header."""
        return self._with_port(self.host)

    def at(self, address: Address) -> str:
        """Return the URL with an address in place of its host."""
        return f"{self.scheme}://{self._with_port(str(address))}{self.path}{self.query}"

    def covers(self, other: "Link") -> bool:
        """Whether this is a prefix of the other: in whole segments of its path."""
        path = self.path.rstrip("/")
        same = (self.scheme, self.host, self.port) == (other.scheme, other.host, other.port)
        return same and (other.path == path or other.path.startswith(f"{path}/"))

    def _with_port(self, host: str) -> str:
        name = f"[{host}]" if ":" in host else host
        return name if self.port == SCHEMES[self.scheme] else f"{name}:{self.port}"


def read_link(url: str) -> Link | None:
    """Parse a URL; None if it could be read in two ways, or is not an http(s) URL."""
    if len(url) > MOST_CHARACTERS or not PLAIN.fullmatch(url):
        return None
    try:
        split = urlsplit(url)
        host, port = split.hostname, split.port
    except ValueError:
        return None
    if split.scheme not in SCHEMES or not host or "@" in split.netloc or port == 0:
        return None
    host, path = host.lower().removesuffix("."), split.path or "/"
    is_host = _is_address(host) if "[" in split.netloc else HOST.fullmatch(host)
    if not is_host or _leads_upwards(path):
        return None
    query = f"?{split.query}" if split.query else ""
    return Link(split.scheme, host, port or SCHEMES[split.scheme], _normalized(path), query)


def read_prefixes(text: str) -> tuple[Link, ...]:
    """Return the prefixes of a setting, separated by commas.

    Raises:
        UsageError: one of them is not a prefix.
    """
    links = []
    for prefix in filter(None, map(str.strip, text.split(","))):
        link = read_link(prefix)
        if link is None or "?" in prefix or "#" in prefix:
            raise UsageError(
                f"url_prefixes has {prefix!r}: give the beginning of URLs up to a slash, such as "
                "https://images.example.com/shop/"
            )
        links.append(link)
    return tuple(links)


def is_public(address: Address) -> bool:
    """Whether an address belongs to the public internet, and is not a detour to another one."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
    if any(address in network for network in NOT_PUBLIC if network.version == address.version):
        return False
    return address.is_global and not (
        address.is_multicast
        or address.is_reserved
        or address.is_private
        or address.is_loopback
        or address.is_link_local
        or address.is_unspecified
    )


def _is_address(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return "%" not in host


def _leads_upwards(path: str) -> bool:
    """Whether `.` or `..` is a segment of it, as it stands or decoded, also with `;` behind it."""
    for _ in range(MOST_DECODINGS):
        segments = re.split(r"[/\\]", path)
        if any(segment.partition(";")[0] in (".", "..") for segment in segments):
            return True
        decoded = unquote(path, errors="replace")
        if decoded == path:
            return False
        path = decoded
    return True  # nobody encodes so often without a reason


def _normalized(path: str) -> str:
    """Return what needs no percent-encoding decoded, the rest in capitals (RFC 3986, 6.2.2)."""

    def decoded(match: re.Match[str]) -> str:
        sign = chr(int(match[1], 16))
        return sign if sign in UNRESERVED else match[0].upper()

    return re.sub(r"%([0-9A-Fa-f]{2})", decoded, path)
