"""From projections to an update: contrastive losses, gradient caching, optimizers, schedule."""
