"""What operators see of the service: metrics, access log, timing of a request, memory.

Requests and batches are noted here; /metrics, the log and the Server-Timing header come out.
"""
