"""Vectors in, nearest neighbors out: FAISS indexes as immutable values."""
