"""The machine that a process runs on, for every side of facewire: its clocks, its files' owners."""
