"""The commands of a device: `facewire device`, `replay` and `simulate`."""
