"""Variables that Kubernetes sets for a Service, which are not settings of ours.

A pod is given the address of every Service of its namespace (`enableServiceLinks`), in the form
of Docker's links. Those of a Service called `lookalike` or `lookalike-reader` begin as our
settings do:

    LOOKALIKE_SERVICE_HOST=10.0.0.7             LOOKALIKE_PORT=tcp://10.0.0.7:80
    LOOKALIKE_SERVICE_PORT=80                   LOOKALIKE_PORT_80_TCP=tcp://10.0.0.7:80
    LOOKALIKE_READER_SERVICE_PORT_HTTP=80       LOOKALIKE_PORT_80_TCP_PROTO=tcp
"""

import re

PROTOCOL = "(?:tcp|udp|sctp)"
PROTOCOLS = "(?:TCP|UDP|SCTP)"  # in names
URL = re.compile(rf"{PROTOCOL}://.+:[0-9]+")
SHAPES = (
    (re.compile(r"\w+_SERVICE_HOST"), re.compile(r"\S+")),
    (re.compile(r"\w+_SERVICE_PORT(_\w+)?"), re.compile(r"[0-9]+")),
    (re.compile(r"\w+_PORT"), URL),
    (re.compile(rf"\w+_PORT_[0-9]+_{PROTOCOLS}"), URL),
    (re.compile(rf"\w+_PORT_[0-9]+_{PROTOCOLS}_PROTO"), re.compile(PROTOCOL)),
    (re.compile(rf"\w+_PORT_[0-9]+_{PROTOCOLS}_PORT"), re.compile(r"[0-9]+")),
    (re.compile(rf"\w+_PORT_[0-9]+_{PROTOCOLS}_ADDR"), re.compile(r"\S+")),
)


def is_service_link(variable: str, value: str) -> bool:
    """Whether a variable has the name and the value of a Service's address."""
    return any(name.fullmatch(variable) and text.fullmatch(value) for name, text in SHAPES)
