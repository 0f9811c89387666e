"""OVSDB (RFC 7047) for greenlets, on python-ovs' IDL."""
