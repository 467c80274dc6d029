"""The commands `lookalike export`, `lookalike verify` and `lookalike evaluate`.

In: what is typed. Out: files, tables on stderr, JSON on stdout. The work is in the folders beside.
"""
