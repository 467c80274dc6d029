"""What every encoder is, whoever wrote it."""

from torch import nn


class EncoderModule(nn.Module):
    """A network from images to features: float [N,C,S,S] -> h [N,feature_dim]."""

    feature_dim: int
