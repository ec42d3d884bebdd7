"""The platform: stores what devices report, acks it, and answers questions about it."""
