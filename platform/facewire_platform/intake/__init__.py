"""From the wire to the commit: a receiver's process takes messages, the worker stores them and acks."""
