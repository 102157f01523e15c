"""Who is at the other end of a connection on this machine: the process that holds its socket.

In: the addresses of both ends. Out: a pid among those that may be. The kernel is asked for the one
socket (sock_diag(7)); where it cannot be, its tables in /proc are read, which takes 40 ms where
there are thousands of sockets.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

Address = tuple[str, int]

_CONNECTED = "01"  # as /proc/net/tcp writes it
_SOCK_DIAG, _BY_FAMILY, _REQUEST = 4, 20, 1
_ERROR = 2
_NOBODYS = -1
_HEADER, _ASKED = struct.Struct("=IHHII"), struct.Struct("=BBBBI")
_INODE_AT = 16 + 4 + 48 + 16  # behind header, states, socket id; timers, queues and owner


def pid_of(near: Address, far: Address, pids: Iterable[int]) -> int | None:
    """Of the process whose end is `near`; None: of none of these."""
    inode = _asked(near, far)
    if inode is None:
        inode = _looked_up(near[1])
    name = f"socket:[{inode}]"
    for pid in pids:
        with suppress(OSError), os.scandir(f"/proc/{pid}/fd") as entries:
            for entry in entries:
                with suppress(OSError):
                    if os.readlink(entry.path) == name:
                        return pid
    return None


def _asked(near: Address, far: Address) -> int | None:
    """The socket's inode, as the kernel answers; None where it does not."""
    place = struct.pack(">HH", near[1], far[1])
    place += b"".join(socket.inet_aton(host).ljust(16, b"\0") for host, _ in (near, far))
    place += struct.pack("=Iii", 0, -1, -1)  # on any interface; no cookie
    body = _ASKED.pack(socket.AF_INET, socket.IPPROTO_TCP, 0, 0, 0xFFFFFFFF) + place
    with suppress(OSError, AttributeError, struct.error):
        with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _SOCK_DIAG) as kernel:
            kernel.settimeout(1.0)
            size = _HEADER.size + len(body)
            kernel.send(_HEADER.pack(size, _BY_FAMILY, _REQUEST, 1, 0) + body)
            answer = kernel.recv(4096)
        if _HEADER.unpack_from(answer)[1] != _ERROR:
            return int(struct.unpack_from("=I", answer, _INODE_AT)[0])
        if struct.unpack_from("=i", answer, _HEADER.size)[0] == -errno.ENOENT:
            return _NOBODYS  # it has gone already
    return None


def _looked_up(port: int) -> int:
    """Of the connected socket that has this local port; gRPC's are of both families at once."""
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if int(fields[1].rpartition(":")[2], 16) == port and fields[3] == _CONNECTED:
                return int(fields[9])
    return _NOBODYS
