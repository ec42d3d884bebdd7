"""Whether all is well: of each device, for a monitor, and of what is around the platform."""
