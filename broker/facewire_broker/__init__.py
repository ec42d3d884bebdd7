"""The embedded broker, its users, and configuration for other brokers with the same users.

To run a broker in a test or beside other code, with its own thread and event loop, anonymous, on a
free loopback port:

    from facewire_broker import embedded

    with embedded.running() as address:      # an Address, ready for Connection(address, ...)
        address.host, address.port           # "127.0.0.1", 40123

    with embedded.running(port=40123): ...   # the same port again, as after a crash

Without `with`: `embedded.Embedded()` has `.address`, `.call(lambda broker: ...)` and `.close()`.
"""
