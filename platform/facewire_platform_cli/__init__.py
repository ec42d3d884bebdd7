"""The platform's commands: `facewire platform`, and the questions to its database."""
