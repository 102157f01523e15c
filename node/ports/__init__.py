"""Asking a home router to forward a port to this node, by PCP, NAT-PMP or UPnP."""

from node.ports.lease import Lease, PortMapping, RouterRefused
from node.ports.mapper import PortMapper

__all__ = ["Lease", "PortMapper", "PortMapping", "RouterRefused"]
