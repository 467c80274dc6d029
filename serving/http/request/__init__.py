"""A request on its way in: from bytes to uploads and checked fields.

`request_body` reads a body in any of its forms (`multipart`, JSON, raw), `fetching` gets images
that are named by URL, `fields` checks what stands beside the images, `in_flight` bounds the bytes
of all bodies together. What cannot be used leaves as an `errors.HttpError`.
"""
