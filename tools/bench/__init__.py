"""Benchmarks: ``make bench`` runs them, ``make bench NAME=flow_install`` one. Each prints one JSON object a line."""
