"""Measured before a run: a recipe and a device in, batch size and learning rate out."""
