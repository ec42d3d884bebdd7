"""Bridges: what boxes of other makes say becomes events of facewire devices (docs/bridges.md)."""
