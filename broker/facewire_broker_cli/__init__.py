"""The commands of the broker: `facewire broker`."""
