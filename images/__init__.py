"""Bytes and files to RGB uint8 arrays: the one place that decodes, rotates, crops and lists."""
