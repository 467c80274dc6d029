"""Which proxies are believed when they say for whom they ask."""

import ipaddress

from base.errors import UsageError


def check_proxies(text: str) -> None:
    """Refuse a list, separated by commas, that is not of addresses and networks.

    Raises:
        UsageError: with the entry.
    """
    for entry in filter(None, map(str.strip, text.split(","))):
        try:
            ipaddress.ip_network(entry)
        except ValueError as error:
            raise UsageError(
                f"trusted_proxies has {entry!r}: give addresses or networks, such as 127.0.0.1 or "
                "10.0.0.0/8"
            ) from error
