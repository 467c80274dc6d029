"""Networks: images in, features h (encoder) and projections z (projection head) out.

The tables [encoder] and [head] of a recipe stand beside what they configure.
"""
