"""An open encoder: images in, embeddings out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from base.errors import ArtifactError, LookalikeError, UsageError
from base.text import one_line
from export.encoder_file.contract import EMBEDDINGS, FEATURES, INPUT, EncoderContract

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Literal

    import onnxruntime
    from numpy.typing import NDArray

    from images.pixels.preprocess import PreprocessSpec


class Encoder:
    """An open encoder file. `open_encoder` makes it; several threads may use it at once.

    Attributes:
        path: of the file.
        digest: SHA-256 of the file, hex: the encoder's identity.
        contract: what the file says about itself.
        provider: "cpu" or "cuda", where it runs.
    """

    def __init__(
        self,
        *,
        path: Path,
        digest: str,
        contract: EncoderContract,
        session: onnxruntime.InferenceSession,
        provider: Literal["cpu", "cuda"],
    ) -> None:
        self.path = path
        self.digest = digest
        self.contract = contract
        self.provider = provider
        self._session = session

    @property
    def preprocess(self) -> PreprocessSpec:
        """How an image becomes a row of `encode`'s argument."""
        return self.contract.preprocess

    @property
    def embedding_dim(self) -> int:
        """E, the length of an embedding."""
        return self.contract.embedding_dim

    @property
    def threads(self) -> int:
        """Threads that one call computes with, the caller's among them."""
        return int(self._session.get_session_options().intra_op_num_threads)

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed a batch.

        Args:
            images: uint8 [N, S, S, C], preprocessed by `preprocess`; N may be 0.

        Returns:
            float32 [N, E], each row of length 1 (or 0, where all features are 0).

        Raises:
            UsageError: another type or shape; the message says which was expected.
            LookalikeError: ONNX Runtime fails on it, for lack of memory say.
            ArtifactError: the graph breaks the promise of its metadata.
        """
        return self._run(images, [EMBEDDINGS])[0]

    def encode_with_features(
        self, images: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Embed a batch as `encode` does; return features float32 [N, D] and embeddings [N, E]."""
        features, embeddings = self._run(images, [FEATURES, EMBEDDINGS])
        return features, embeddings

    def _run(self, images: NDArray[np.uint8], outputs: list[str]) -> list[NDArray[np.float32]]:
        size, depth = self.preprocess.size, self.preprocess.channels
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
            kind = getattr(images, "dtype", type(images).__name__)
            raise UsageError(
                f"images are {kind}: give a NumPy array of uint8 [N, {size}, {size}, {depth}]"
            )
        if images.ndim != 4 or images.shape[1:] != (size, size, depth):
            raise UsageError(
                f"images have shape {list(images.shape)}: this encoder takes "
                f"[N, {size}, {size}, {depth}]"
            )
        dims = {FEATURES: self.contract.feature_dim, EMBEDDINGS: self.embedding_dim}
        if len(images) == 0:  # pooling kernels may refuse empty batches
            return [np.empty((0, dims[name]), np.float32) for name in outputs]
        try:
            results: list[NDArray[np.float32]] = self._session.run(
                outputs, {INPUT: np.ascontiguousarray(images)}
            )
        except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
            reason = one_line(error)
            raise LookalikeError(
                f"{self.path} fails on {len(images)} pictures: {reason}; give fewer at a time, or "
                f"export it again"
            ) from error
        for name, rows in zip(outputs, results, strict=True):
            if rows.shape != (len(images), dims[name]):
                raise ArtifactError(
                    f"{self.path}: {name} came out as {list(rows.shape)} instead of "
                    f"{[len(images), dims[name]]}: export it again"
                )
        return results
