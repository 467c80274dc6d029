"""Where a collection is: a folder, or in Milvus.

    shop/                                       a folder
    milvus://host:19530/shop                    a Milvus server or cluster; 19530 is the usual port
    milvus://host:19530/database/shop           in another database than Milvus' default one
    milvus+tls://host:443/shop                  over TLS
    milvus+file:trial.db#shop                   a file of milvus-lite, for tests and trials

`?ef=400` (or `?nprobe=64`: whatever parameter the index in Milvus takes) after a server's URL
goes along with every search. A location holds no secrets, because it is shown in messages, logs
and process lists: they come from the environment (`milvus.connection`).
"""

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, urlsplit

from base.errors import UsageError

Location = str | Path

SERVERS = {"milvus": "http", "milvus+tls": "https"}
FILE = "milvus+file"
PORT = 19530
EXAMPLES = "milvus://host:19530/name, milvus+tls://host:443/name or milvus+file:PATH.db#name"


@dataclass(frozen=True, kw_only=True)
class MilvusLocation:
    """A collection in Milvus.

    Attributes:
        text: the URL without search parameters.
        uri: what pymilvus connects to: http://host:port, https://host:port or a file's path.
        name: the collection's.
        database: the database it is in; empty for Milvus' default one.
        search: parameters that go along with every search.
    """

    text: str
    uri: str
    name: str
    database: str = ""
    search: dict[str, int] = field(default_factory=dict)

    @property
    def file(self) -> Path | None:
        """The file of milvus-lite, None for a server."""
        return None if self.uri.startswith(("http://", "https://")) else Path(self.uri)


def location_of(text: str) -> Location:
    """Return a location from the environment or a command line: a URL stays text."""
    return text if _scheme(text) else Path(text)


def milvus_location(location: Location) -> MilvusLocation | None:
    """Return the location in Milvus that a URL names, or None for a folder.

    Raises:
        UsageError: a URL that says too little, too much, or carries a password.
    """
    if isinstance(location, Path):
        if _scheme(location.parts[0] if location.parts else ""):
            raise UsageError(
                f"{location}: this is for collections in a folder. One in Milvus is kept, tuned "
                "and backed up by Milvus; `lookalike collection copy` brings it into a folder"
            )
        return None
    scheme = _scheme(location)
    if not scheme:
        return None
    if scheme == FILE:
        return _file(location)
    try:
        return _server(location, urlsplit(location), scheme)
    except UsageError:
        raise
    except ValueError:  # of urllib, and it may quote what must not be shown
        raise UsageError(f"not a location in Milvus: write {EXAMPLES}") from None


def _scheme(text: str) -> str:
    scheme, colon, _ = text.partition(":")
    return scheme if colon and (scheme == FILE or scheme in SERVERS) else ""


def _server(text: str, url: SplitResult, scheme: str) -> MilvusLocation:
    if "@" in text:
        raise UsageError(
            "the URL of a Milvus server carries a user or password, which others could read: take "
            "them out and set MILVUS_TOKEN, or MILVUS_USER and MILVUS_PASSWORD"
        )
    shown = text.partition("?")[0]
    database, _, name = url.path.strip("/").rpartition("/")
    if not url.hostname or "/" in database or url.fragment:
        raise UsageError(f"{shown} is not a location in Milvus: write {EXAMPLES}")
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    return MilvusLocation(
        text=shown,
        uri=f"{SERVERS[scheme]}://{host}:{url.port or PORT}",
        name=_checked_name(name, shown),
        database=database,
        search=_search_parameters(url.query),
    )


def _file(text: str) -> MilvusLocation:
    # After the scheme everything up to # is a path, whatever characters it has.
    path, _, name = text.partition(":")[2].rpartition("#")
    if not path.endswith(".db"):
        raise UsageError(
            f"{text}: milvus-lite needs a path that ends in .db, then # and the collection's name: "
            "milvus+file:PATH.db#name"
        )
    return MilvusLocation(text=text, uri=path, name=_checked_name(name, text))


def _checked_name(name: str, text: str) -> str:
    plain = name.replace("_", "a")
    if not (plain.isascii() and plain.isalnum() and not plain[0].isdigit() and len(name) <= 255):
        raise UsageError(
            f"{text}: the collection's name is {name!r}; Milvus takes letters, digits and _, at "
            "most 255, and no digit first"
        )
    return name


def _search_parameters(query: str) -> dict[str, int]:
    parameters = {}
    for name, value in parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)):
        if not value.isdecimal():
            raise UsageError(f"{name} in a milvus:// URL is not a whole number, as ?ef=400 has it")
        parameters[name] = int(value)
    return parameters
