"""What the service tells its operators: metrics, access log, timing, memory."""
