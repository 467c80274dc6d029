"""Evaluation protocols: arrays of features and labels in, scores out.

kNN, linear probe, fine-tuning, retrieval and what needs no labels; none of them knows files.
"""
