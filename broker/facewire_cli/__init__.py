"""The shell of the command `facewire`, shared by the commands of every side."""
