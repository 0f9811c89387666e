"""What can be wrong with how NovaNet was started."""

from __future__ import annotations


class ConfigurationError(Exception):
    """An option has a value that cannot be used; the text says which, why, and what to do."""
