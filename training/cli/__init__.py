"""The command `lookalike train`.

In: its options. Out: the plan of a run (recipe, folder, batch), and what is printed at the end.
"""
