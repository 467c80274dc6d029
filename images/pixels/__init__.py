"""Encoded bytes in, uint8 arrays out.

Decode, rotate by EXIF, resize and crop, in this process or in an isolated one; many-channel planes;
thumbnails and contact sheets.
"""
