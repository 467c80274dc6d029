"""A source in, batches of uint8 tensors out.

`training_data.py` opens the images in memory, in a cache file or as a stream, with the table [data]
of a recipe (`settings.py`); `order.py` says which of them each step reads.
"""
