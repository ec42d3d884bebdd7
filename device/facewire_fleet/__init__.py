"""Thousands of simulated devices in one process: real ring, uploader and contract over a network that is one event loop."""
