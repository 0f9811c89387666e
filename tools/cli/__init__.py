"""The command ``novanet``: the REST interface for people and scripts."""
