"""The command `facewire`: one module for each group of commands. The only door to click and rich."""
