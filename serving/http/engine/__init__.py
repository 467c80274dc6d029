"""What one service runs on.

`Lifecycle` opens, starts and stops a `Runtime`, which is what routes get: an `Embedder` (decoding
threads, and the encoder behind its batcher), a `CollectionAccess`, settings, metrics.
"""
