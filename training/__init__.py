"""Images to a run folder: SimCLR pretraining (Chen et al. 2020)."""
