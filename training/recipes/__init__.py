"""Recipes: the settings of a run, as TOML in and checked frozen dataclasses out."""
