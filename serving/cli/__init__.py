"""The `extract`, `collection`, `search` and `serve` commands."""
