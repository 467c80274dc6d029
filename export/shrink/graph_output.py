"""What a graph that is still in memory computes for many images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from export.encoder_file.batches import encode_in_batches
from export.encoder_file.contract import INPUT
from export.encoder_file.session import make_session

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from base.progress import OnProgress


def graph_output(
    model: onnx.ModelProto,
    output: str,
    images: NDArray[np.uint8],
    batch_size: int,
    on_progress: OnProgress | None = None,
) -> NDArray[np.float32]:
    """Compute one output of a graph on the CPU.

    Args:
        model: a graph with the inputs and outputs of an encoder file.
        output: `FEATURES` or `EMBEDDINGS`.
        images: uint8 [N,S,S,C]; may be memory-mapped.
        batch_size: images in a batch.
        on_progress: called after each batch.

    Returns:
        float32 [N,D] or [N,E].
    """
    session, _ = make_session(model.SerializeToString(), "cpu")

    def encode(batch: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        rows: list[NDArray[np.float32]] = session.run(
            [output], {INPUT: np.ascontiguousarray(batch)}
        )
        return rows

    (rows,) = encode_in_batches(encode, images, batch_size, on_progress)
    return rows
