"""Sockets and processes: the uvicorn server, and the parent of several workers.

`serve` takes what the command line says and returns when the service has ended.
"""
