"""Batched augmentations: uint8 images in, two float views out.

Crops, flips, color distortion and blur of the SimCLR paper (appendix A), as tensor functions.
"""
