"""A source in, batches of uint8 tensors out.

Decoded images in memory, in a cache file or streamed, and the order in which a run reads them.
"""
