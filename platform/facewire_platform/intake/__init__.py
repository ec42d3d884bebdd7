"""From the wire to the commit: a receiver process takes messages, the worker stores and acks them."""
