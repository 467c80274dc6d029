"""From projections z to an update of the weights.

Contrastive losses, gradient caching, optimizers and schedule, with the tables [loss], [optimizer]
and [schedule] of a recipe.
"""
