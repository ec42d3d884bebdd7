"""The wire contract, and rules that several sides apply. Pure: no I/O, clock, thread, randomness.

`events` has one comparison, `messages` the four payloads, `fields` reads their typed fields, and
`codec` has their bytes. `topics` has the places where they travel, `roles` who may publish and
subscribe there, `errors` all faults. `vendor` and `photographs` read the forms in which boxes send
events, and `proof` says how far it is proved that a box lost none.

`allowance` bounds how much each of many clients may do, `objects` says which objects a SQLite
database may contain, `hosts` knows a machine's own names, and `endpoint` reads HOST:PORT. `finding`
is a check's; `plain`, `moments` and `masking` read and write values for people and programs: JSON,
times and durations, URLs without passwords.

Each side has its own rules of sending: `facewire_device.uploader` and `facewire_platform.ingest`.
"""

#: Major version of the wire, the second level of every topic. A change of meaning raises it.
WIRE_VERSION = 1
