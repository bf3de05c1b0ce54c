"""Drivers of real servers for scripts/conformance, in the order in which they are run."""
from servers.ceph import Ceph
from servers.foreign import Azurite, GcpEmulator
from servers.others import Garage, Moto, RcloneServe

SERVERS = (Ceph, Garage, Moto, RcloneServe, Azurite, GcpEmulator)
