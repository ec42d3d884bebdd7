"""The HTTP API and the page of a platform, in a separate process beside the worker."""
