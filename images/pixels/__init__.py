"""Content in (an image file's bytes, or an array), uint8 arrays [H,W,C] out, or an `ImageRefused`.

Decode, rotate by EXIF, resize and crop as a `PreprocessSpec` says, in this process or in an
isolated one that a hostile image may crash; images of many channels as planes; thumbnails and
contact sheets.
"""
