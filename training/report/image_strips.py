"""Sheets of images: views that must look alike to the encoder, and what it finds alike."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from training.data.sampling import spread

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from training.report.watched import Watched

SIDE = 96  # px, at most, of an image in the page
PAIRS, QUERIES, NEIGHBORS = 12, 8, 7


def data_uri(image: NDArray[np.uint8], side: int = SIDE) -> str:
    """Return an image uint8 [H,W,C] as a JPEG inside the page; of more channels the first three."""
    pixels = np.repeat(image[..., :1], 3, 2) if image.shape[2] < 3 else image[..., :3]
    thumb = Image.fromarray(np.ascontiguousarray(pixels))
    thumb.thumbnail((side, side), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    thumb.save(file, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _img(image: NDArray[np.uint8], title: str, kind: str = "") -> str:
    name = escape(title, quote=True)
    mark = f' class="{kind}"' if kind else ""
    return f'<img{mark} src="{data_uri(image)}" alt="{name}" title="{name}" loading="lazy">'


def view_sheet(watched: Watched) -> str:
    """Images, each beside its two views."""
    count = len(watched.images)
    cards = []
    for n in spread(count, PAIRS):
        views = [watched.views[n], watched.views[count + n]]
        whole = _img(watched.images[n], _name(watched, int(n)))
        both = "".join(_img(view, f"view {i}", "view") for i, view in enumerate(views, start=1))
        cards.append(f"<div class=pair>{whole}{both}</div>")
    return f"<div class=pairs>{''.join(cards)}</div>"


def nearest(
    features: NDArray[np.float32], queries: NDArray[np.int64], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the k nearest other rows of some features [N,D] and their cosines, [Q,k] each."""
    rows = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    cosine = rows[queries] @ rows.T
    cosine[np.arange(len(queries)), queries] = -np.inf
    order = np.argsort(-cosine, axis=1, kind="stable")[:, : min(k, len(rows) - 1)]
    return order, np.take_along_axis(cosine, order, 1)


def neighbor_sheet(features: NDArray[np.float32], watched: Watched) -> str:
    """Return some images and their nearest watched ones, framed by whether the label agrees."""
    queries = spread(len(features), QUERIES)
    neighbors, cosine = nearest(features, queries, NEIGHBORS)
    lines = []
    for query, row, near in zip(queries, neighbors, cosine, strict=True):
        query_image = _img(watched.images[query], _name(watched, int(query)), "query")
        answers = "".join(
            _img(
                watched.images[n],
                f"{_name(watched, int(n))}, cosine {c:.3f}",
                _agreement(watched, int(query), int(n)),
            )
            for n, c in zip(row, near, strict=True)
        )
        lines.append(f"<div class=row>{query_image}{answers}</div>")
    return f"<div class=rows>{''.join(lines)}</div>"


def _name(watched: Watched, n: int) -> str:
    label = int(watched.labels[n])
    return watched.classes[label] if label >= 0 else f"picture {n + 1}"


def _agreement(watched: Watched, query: int, other: int) -> str:
    a, b = int(watched.labels[query]), int(watched.labels[other])
    return "" if min(a, b) < 0 else "same" if a == b else "other"
