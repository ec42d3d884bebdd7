"""The embedded broker, credentials, and what other brokers need to know of them.

In a test, or beside other code (its own thread and event loop, an ephemeral port on loopback, anonymous):

    from facewire_broker import embedded

    with embedded.running() as address:      # facewire_mqtt.address.Address, ready for Connection(address, ...)
        address.host, address.port           # "127.0.0.1", 40123

    with embedded.running(port=40123): ...   # the same port again, as after a crash

`embedded.Embedded()` is the same without `with`: `.address`, `.call(lambda broker: ...)`, `.close()`.
"""
