"""The batch job `lookalike extract`: an encoder and a source in, a feature folder out.

Resumable, and every item exactly once. `extract` is the function to call, `extraction` one run:
reader -> worker -> writer. The plans choose the shards to make; `engine` and `ray_engine` embed the
images, here or on a cluster.
"""
