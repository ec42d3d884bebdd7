"""Health: the state of each device, metrics for monitors, and the doctor's checks."""
