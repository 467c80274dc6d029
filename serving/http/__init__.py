"""Embeddings, search and the web page over HTTP: a BentoML service around one encoder."""
