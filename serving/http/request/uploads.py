"""One image as a client sends it: bytes, base64 text, a data URI or a URL."""

import binascii
from dataclasses import dataclass
from http import HTTPStatus

from serving.http.json_text import show
from serving.http.request.errors import HttpError, invalid, malformed
from serving.http.request.image_text import base64_of, decoded, is_url

LINKS = ("http://", "https://")


@dataclass(frozen=True, slots=True)
class Upload:
    """One image as it was sent.

    Attributes:
        content: the encoded image, or its refusal.
        param: what to call it in a refusal.
        filename: as the client named it; never used as a path.
        url: where the image is, if it was not sent; `fetching` may put it in.
    """

    content: bytes | HttpError
    param: str
    filename: str | None = None
    url: str | None = None


def decode_upload(text: object, param: str) -> Upload:
    """Return an image from base64 text or a data URI, or its refusal if it is neither."""
    if not isinstance(text, str):
        message = f"{param} is {show(text)}: base64 text or a data URI is needed"
        return Upload(invalid(param, message), param)
    if is_url(text):
        return named_by_url(text, param)
    payload = base64_of(text)
    if payload is None:
        message = f"{param} is a data URI without ;base64: encode the image in base64"
        return Upload(malformed("base64", message, param), param)
    try:
        return Upload(decoded(payload), param)
    except (binascii.Error, ValueError) as error:
        message = f"{param} is not base64: {error}"
        return Upload(malformed("base64", message, param), param)


def named_by_url(url: str, param: str) -> Upload:
    """Return an image that was not sent; refused unless `fetching` puts it in."""
    message = f"{param} is a URL: URLs are not opened here, send the image itself"
    refusal = HttpError(HTTPStatus.UNPROCESSABLE_ENTITY, "url-not-allowed", message, param=param)
    return Upload(refusal, param, url=url if url.startswith(LINKS) else None)
