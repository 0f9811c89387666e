"""NovaNet's Ryu apps: the outside world of the pure core in ``topology`` and ``pipelines``."""
