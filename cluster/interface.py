"""How workers of a final training find one another."""

import os
import socket
import struct
from dataclasses import dataclass
from typing import Any

import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend  # pyright: ignore[reportPrivateUsage]

from trainables.device import device_for

_VARIABLE = "GLOO_SOCKET_IFNAME"
_SIOCGIFADDR = 0x8915
"""Linux: the IPv4 address of an interface."""


@dataclass
class NodeInterface(TorchConfig):
    """Lets gloo use the interface that Ray uses, and sees that GPUs that are booked can be used.

    Left alone, gloo takes the address of the machine's own name, which many machines resolve to a
    loopback address: workers of other hosts then knock at their own door. NCCL, for GPUs, looks for
    an interface itself; NCCL_SOCKET_IFNAME in the environment of the nodes names one.
    """

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """What sets up the process group."""
        return _OnNodeInterface


class _OnNodeInterface(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(_prepare)
        super().on_start(worker_group, backend_config)


def _prepare() -> None:
    """Runs in every worker."""
    device_for(float(len(ray.get_gpu_ids())))
    found = interface_of(ray.util.get_node_ip_address())
    if found is not None:
        os.environ.setdefault(_VARIABLE, found)


def interface_of(address: str) -> str | None:
    """Returns the name of the interface with an IPv4 address, None if this machine has none."""
    try:
        import fcntl
    except ImportError:  # not a Unix
        return None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            try:
                answer = fcntl.ioctl(any_socket, _SIOCGIFADDR, request)
            except OSError:  # it has no address
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None
