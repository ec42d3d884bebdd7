"""The names by which a machine calls itself. Pure.

A web site may point its own name at 127.0.0.1 (DNS rebinding); a browser then sends that name as
Host. So a server that asks for no secret answers only to the names here.
"""

import ipaddress


def is_own_name(host: str) -> bool:
    """Whether a Host header names this machine: localhost, 127.0.0.1 or [::1], with any port."""
    name = host.rpartition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
