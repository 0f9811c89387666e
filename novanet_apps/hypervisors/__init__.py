"""The OVSDB of every hypervisor: keeps its integration bridge right and observes the VMs' interfaces."""

from novanet_apps.hypervisors.desired import datapath_id
from novanet_apps.hypervisors.registry import Hypervisors

__all__ = ["Hypervisors", "datapath_id"]
