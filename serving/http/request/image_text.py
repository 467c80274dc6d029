"""Images as text: base64 as clients write it, data URIs (RFC 2397) and URLs (RFC 3986).

Schemes, media types and `;base64` may be in capitals. Base64 may lack its padding, and `+`, `/` and
`=` may be percent-encoded, as a URI's often are.
"""

import re

URL = re.compile(r"[a-z][a-z0-9+.-]*://|(?:file|ftp|blob|urn):", re.IGNORECASE)
ENCODED = re.compile(r"%(2b|2f|3d)", re.IGNORECASE)
SIGNS = {"2b": "+", "2f": "/", "3d": "="}


def is_url(text: str) -> bool:
    """Whether a text names an image and is not one; base64 has no colon."""
    return URL.match(text) is not None


def base64_of(text: str) -> str | None:
    """Return the base64 of a data URI, or the text itself; None if the URI has no base64."""
    payload = text
    if text[:5].lower() == "data:":
        head, comma, payload = text.partition(",")
        if not comma or not head.rstrip().lower().endswith(";base64"):
            return None
    if "%" in payload:
        payload = ENCODED.sub(lambda match: SIGNS[match[1].lower()], payload)
    return payload


def padded(packed: bytes) -> bytes:
    """Return base64 without blanks with the padding that it may lack."""
    return packed + b"=" * (-len(packed) % 4) if len(packed) % 4 > 1 else packed
