"""The HTTP interface: one file for each group of routes.

A route takes the service's `engine.runtime` and a Starlette request, reads its `fields` and
returns one of the `answers`, or raises an `HttpError`. `app` mounts the routes, `openapi` describes
them, and `service` makes the BentoML service that `lookalike serve` and a bento run.
"""
