"""Drivers of real servers for scripts/conformance, in the order in which they are run."""
from servers.ceph import Ceph

SERVERS = (Ceph,)
