"""Smaller or faster encoders: int8, fp16, shorter embeddings, scaled decode.

In: a `Draft` in fp32, and images to calibrate or fit on. Out: another `Draft`, with a report of
what it costs; `finish` runs the steps in order.
"""
