"""What vectors are worth: the protocols of `training/protocols` on runs and encoder files.

In: a run folder or an encoder file, and labeled images. Out: an `Evaluation`, scores with their
confidence intervals.
"""
