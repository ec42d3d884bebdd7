"""The wire contract that device, broker and platform agree on. Pure: no I/O, clock, thread or randomness.

`events` is one comparison, `messages` the four payloads, `codec` bytes and maps, `topics` where they
travel, `errors` what can be wrong with them. The rules of who sends what when live with their side:
`facewire_device.uploader` and `facewire_platform.ingest`.
"""

#: Major version of the wire, the second level of every topic. A change of meaning raises it.
WIRE_VERSION = 1
