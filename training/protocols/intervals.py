"""How far a measured share or mean may be from the true one: 95 % confidence intervals."""

import math

Z = 1.959964  # the 97.5 % quantile of the normal distribution
Interval = tuple[float, float]


def wilson(share: float, count: int) -> Interval:
    """Return the score interval of a share seen in `count` trials (Wilson 1927); within [0,1]."""
    middle = share + Z * Z / (2 * count)
    reach = Z * math.sqrt(share * (1 - share) / count + (Z / (2 * count)) ** 2)
    scale = 1 + Z * Z / count
    return max(0.0, (middle - reach) / scale), min(1.0, (middle + reach) / scale)


def around(mean: float, standard_error: float) -> Interval:
    """Return the normal interval of a mean of shares; within [0,1]."""
    return max(0.0, mean - Z * standard_error), min(1.0, mean + Z * standard_error)
