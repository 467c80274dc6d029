"""Images as text: base64 as clients write it, data URIs (RFC 2397) and URLs (RFC 3986).

Schemes, media types and `;base64` may be in capitals. Base64 may lack its padding, and `+`, `/` and
`=` may be percent-encoded, as a URI's often are, or `-` and `_` for the first two (RFC 4648, 5).
"""

import base64
import re

URL = re.compile(r"[a-z][a-z0-9+.-]*://|(?:file|ftp|blob|urn):", re.IGNORECASE)
LONGEST_SCHEME = 64
ENCODED = {"%2B": "+", "%2b": "+", "%2F": "/", "%2f": "/", "%3D": "=", "%3d": "="}
PLAIN = bytes.maketrans(b"-_", b"+/")
BLANKS = b" \t\r\n\v\f"


def is_url(text: str) -> bool:
    """Whether a text names an image and is not one; base64 has no colon."""
    return URL.match(text[:LONGEST_SCHEME]) is not None


def base64_of(text: str) -> str | None:
    """Return the base64 of a data URI, or the text itself; None if the URI has no base64."""
    payload = text
    if text[:5].lower() == "data:":
        head, comma, payload = text.partition(",")
        if not comma or not head.rstrip().lower().endswith(";base64"):
            return None
    if "%" in payload:
        for encoded, sign in ENCODED.items():
            payload = payload.replace(encoded, sign)
    return payload


def decoded(payload: str) -> bytes:
    """Return the bytes of base64, which may have blanks in it and lack its padding.

    Raises:
        ValueError: it is not base64.
    """
    packed = payload.encode("ascii", "replace").translate(PLAIN, BLANKS)
    if len(packed) % 4 > 1:
        packed += b"=" * (-len(packed) % 4)
    return base64.b64decode(packed, validate=True)
