"""A request on its way in: from bytes to uploads and checked fields.

`request_body` reads a body in any of its forms (`multipart`, JSON, raw), `json_bounds` counts what
JSON holds before it is parsed, large bodies in threads of their own (`parsing`). `uploads` are the
images, `fetching` gets those that are named by URL, `fields` checks what stands beside them,
`in_flight` bounds the bytes of all bodies together. What cannot be used leaves as an
`errors.HttpError`.
"""
