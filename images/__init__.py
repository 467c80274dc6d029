"""Bytes and files to RGB uint8 arrays: the one place that decodes, rotates, resizes, crops and lists sources."""
