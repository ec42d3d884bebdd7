"""The machine that a process runs on: its clocks, folders, file owners, and failures in words."""
