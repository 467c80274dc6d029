"""Several processes as one run: ranks, sharding, launch and batch norm over the global batch."""
