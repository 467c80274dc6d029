"""Encoder file to vectors, neighbors, HTTP and the web page. Never imports torch."""
