"""Paths of items, for the router: its patterns do not match a key with a newline.

There is one path for all items and one for their views. The key is read from the raw path, where a
slash in a key, if encoded, still differs from one between two segments.
"""

import re

from starlette.types import Scope

ANY_ITEM, ANY_VIEW = "/items/-", "/items/-/view"
_VIEW = re.compile(rb"/items/[^?]+/(?:similar|thumbnail)(?:\?|$)")


def routed(scope: Scope) -> Scope:
    """Return what the router sees."""
    if not scope["path"].startswith("/items/"):
        return scope
    return {**scope, "path": ANY_VIEW if _VIEW.search(scope["raw_path"]) else ANY_ITEM}
