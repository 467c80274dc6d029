"""The batch job `lookalike extract`: an encoder and a source in, a feature folder out.

Resumable, and every item exactly once. `extract` is the function to call; `extraction` is one run,
reader -> worker -> writer; the plans say which shards it makes; `engine` and `ray_engine` say where
the images are embedded.
"""
