"""How many files and connections this process may have open."""

import contextlib
import sys

if sys.platform != "win32":
    import resource


def raise_descriptor_limit() -> None:
    """Raise the limit of open descriptors as far as this process may: to the hard limit."""
    if sys.platform != "win32":
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with contextlib.suppress(OSError, ValueError):  # macOS: no more than the kernel's own limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def descriptor_limit() -> int | None:
    """Return how many descriptors may be open; None where nothing limits them."""
    if sys.platform == "win32":
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft
