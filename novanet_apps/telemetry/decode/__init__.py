"""From datagrams of sFlow, NetFlow and IPFIX to aggregates of flows."""
