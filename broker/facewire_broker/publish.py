"""An application message, and the PUBLISH packet that carries it (MQTT 3.1.1 section 3.3). Pure.

0x30 | dup << 3 | qos << 1 | retain,  length,  topic with its length,  packet id (QoS 1),  payload
"""

from facewire_mqtt.framing import fixed_header


class Message:
    """An application message on its way to its subscribers."""

    __slots__ = ("_plain", "_topic", "payload", "qos", "topic")

    def __init__(self, topic: str, payload: bytes, qos: int) -> None:
        self.topic = topic
        self.payload = payload
        #: As published. A subscriber gets the lesser of this and its own (MQTT-3.8.4-6).
        self.qos = qos
        self._topic = b""
        self._plain = b""

    def packet(self, qos: int, packet_id: int, *, retain: bool = False, dup: bool = False) -> bytes:
        """The PUBLISH packet that carries it to one subscriber."""
        if not self._topic:
            topic = self.topic.encode()
            self._topic = len(topic).to_bytes(2, "big") + topic
        if qos:
            length = len(self._topic) + 2 + len(self.payload)
            return b"".join((fixed_header(0x32 | dup << 3 | retain, length), self._topic, packet_id.to_bytes(2, "big"), self.payload))
        if retain:
            return b"".join((fixed_header(0x31, len(self._topic) + len(self.payload)), self._topic, self.payload))
        if not self._plain:
            # The same bytes for every subscriber.
            self._plain = b"".join((fixed_header(0x30, len(self._topic) + len(self.payload)), self._topic, self.payload))
        return self._plain
