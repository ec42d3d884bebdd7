"""The address at which a server listens, written HOST:PORT, and the ports of MQTT. Pure."""

import re
from typing import Final, NamedTuple

#: MQTT's registered ports, without and with TLS.
PORT: Final = 1883
TLS_PORT: Final = 8883
MAX_PORT: Final = 65_535


class Endpoint(NamedTuple):
    """The address to listen at; port 0 takes any free port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_endpoint(text: str) -> Endpoint:
    """Read HOST:PORT; an IPv6 address stands in brackets.

    Raises:
        ValueError: it is no endpoint; names it.
    """
    found = re.fullmatch(r"(?:\[([^\]]+)\]|([^:\s]+)):([0-9]{1,5})", text)
    if not found or int(found[3]) > MAX_PORT:
        raise ValueError(f"{text!r} is not HOST:PORT with a port up to {MAX_PORT}, such as 127.0.0.1:8080 or [::1]:8080")
    return Endpoint(found[1] or found[2], int(found[3]))
