"""The `train` command: its options, the plan of a run and what it prints."""
