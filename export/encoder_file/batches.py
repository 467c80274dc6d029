"""Many images through an encoder, a batch at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from base.progress import OnProgress

    Rows = NDArray[np.float32]  # [N, *]


def encode_in_batches(
    encode: Callable[[NDArray[np.uint8]], Sequence[Rows]],
    images: NDArray[np.uint8],
    batch_size: int,
    on_progress: OnProgress | None = None,
) -> list[Rows]:
    """Encode images batch by batch, which takes no more memory than one batch beside the result.

    Args:
        encode: a batch [n, S, S, C] to its outputs, each [n, *]: `Encoder.encode_with_features`,
            say.
        images: uint8 [N, S, S, C]; may be memory-mapped. N may be 0 where `encode` takes none.
        batch_size: images in a batch, the last one aside.
        on_progress: called after each batch.

    Returns:
        the outputs of all images, each float32 [N, *].
    """
    count = len(images)
    batches: list[Sequence[Rows]] = []
    for start in range(0, max(count, 1), batch_size):
        end = min(start + batch_size, count)
        batches.append(encode(images[start:end]))
        if on_progress is not None:
            on_progress(end, count)
    return [np.concatenate(column) for column in zip(*batches, strict=True)]
