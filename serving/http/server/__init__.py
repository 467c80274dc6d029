"""Sockets and processes: the uvicorn server and the parent of several workers."""
