"""The `export`, `verify` and `evaluate` commands."""
