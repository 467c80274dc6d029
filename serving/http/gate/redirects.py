"""Redirects that stay right behind any proxy: relative, so without scheme, host and prefix."""

from starlette.types import Scope


def relative_location(scope: Scope) -> str:
    """Return where a path with a slash too many, or one too few, leads (RFC 3986, 5.2).

    The router's own is absolute, with the scheme and the path that the proxy used and not the ones
    that the client did.
    """
    path = str(scope["raw_path"].partition(b"?")[0], "latin-1")
    bare = path.rstrip("/")
    last = bare.rpartition("/")[2]
    slashes = len(path) - len(bare)
    location = "../" * slashes + last if slashes else f"./{last}/"
    query = str(scope["query_string"], "latin-1")
    return f"{location}?{query}" if query else location
