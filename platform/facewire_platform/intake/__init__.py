"""From the wire to the commit: a process receives messages, the worker stores and acks them."""
