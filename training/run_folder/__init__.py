"""What a run writes and a later run, or `export`, reads: checkpoints and metrics.

`checkpoint.py` specifies the folder.
"""
