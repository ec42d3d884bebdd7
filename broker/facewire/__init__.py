"""The wire contract of device, broker and platform. Pure: no I/O, clock, thread or randomness.

`events` has one comparison, `messages` the four payloads, `codec` their bytes, `topics` and `roles`
where they travel and who may publish and subscribe there, `errors` all that can be wrong. `vendor`
and `photographs` read the forms in which boxes send events. `plain`, `moments` and `masking` say
how people and programs read and write values: JSON, times and durations, URLs without passwords.

The rules of who sends what and when live with their side: `facewire_device.uploader` and
`facewire_platform.ingest`.
"""

#: Major version of the wire, the second level of every topic. A change of meaning raises it.
WIRE_VERSION = 1
