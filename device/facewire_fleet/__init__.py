"""Thousands of simulated devices in one event loop, with the real ring, uploader and contract."""
