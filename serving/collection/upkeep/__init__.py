"""Keeping the index in step with the ledger: planning, tuning, snapshots and rebuilding."""
