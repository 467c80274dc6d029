"""Encoder file to vectors, neighbours, HTTP and the web page. Never imports torch."""
