"""Embed the items of a source: items in; embeddings or refusals out, in the same order.

`embed` divides the work between cores, `per_item` does it, `results` are the outcomes.
"""
