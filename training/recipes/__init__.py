"""Recipes: the settings of a run, as TOML in and checked frozen dataclasses out.

The TOML files here come with the project, with the source of each number. `build_model.py` makes a
recipe's network.
"""
