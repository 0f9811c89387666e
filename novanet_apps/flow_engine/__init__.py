"""One place that owns the OpenFlow connections: what owners want of a bridge, made true and kept true."""

from .counters import Counters
from .engine import FlowEngine

__all__ = ["Counters", "FlowEngine"]
