"""The HTTP API and the page of a platform, served by a process of its own beside the worker."""
