"""The commands of the platform: `facewire platform`, and each question that people ask it."""
