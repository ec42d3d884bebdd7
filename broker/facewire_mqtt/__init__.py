"""One connection to a broker, for every side of facewire that has one. The only door to paho."""
