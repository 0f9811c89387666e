"""The part of NovaNet on each hypervisor: what OpenFlow and OVSDB cannot do, as a process of its own.

It reads the intent store and the hypervisor's OVSDB, and owns what it makes: a namespace without a name, which goes with the
process, and one port on the integration bridge. It checks the health of load balancers' members, counts connections, shapes uplinks, and captures packets.

``bridge`` keeps its port, ``namespace`` is what is behind it; ``intent`` says who is to be checked and how, ``checks`` does so by
``probers``, ``icmp`` and ``judge``, and ``reports`` writes what came out. Checks run in a thread with an event loop of its own,
in the namespace; everything else in greenlets of the main thread.

``shaping`` keeps uplinks as ``shaping_intent`` says: ``uplink`` finds what differs, ``traffic_control`` changes it in Linux, ``hands_off``
and ``send_buffer`` see to Open vSwitch. ``measuring`` answers what passes by a port's class.

``captures`` keeps VMs' packets in files: ``capture_process`` reads and writes them (``packet_ring``, ``pcapng``), with ``mirrors`` where Linux
does not see them, and ``upload`` hands the file over to the controller.

``connections`` counts those that begin here, as ``conntrack`` and ``netlink`` read them, for pools by least connections.
"""
