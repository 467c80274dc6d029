"""What every request passes before its route, and every answer after it.

`gate` is the ASGI middleware: it asks `auth` for the host and the key, bounds the time, adds the
headers, puts every refusal into one shape, and notes the request in metrics and access log.
"""
