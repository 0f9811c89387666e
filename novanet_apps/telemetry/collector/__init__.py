"""Collectors: processes that take what exporters send, and hand on what it comes to once a second."""
