"""What a run writes and a later run reads: checkpoints and metrics."""
