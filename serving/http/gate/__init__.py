"""What every request passes before its route: host, key, limits, deadline, access log."""
