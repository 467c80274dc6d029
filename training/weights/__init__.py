"""Weights of others in, a state dict for one of our encoders out.

Formats, names and layouts of other libraries, and the check that nothing is lost on the way.
"""
