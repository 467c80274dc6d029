"""The commands `extract`, `collection`, `search` and `serve`: options in, tables or JSON out.

Heavy imports stand inside the commands, so that `--help` answers at once.
"""
