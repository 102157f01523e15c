"""Which router this machine's packets for the internet go to first.

In: the system's routing table: Linux's own file, or what `netstat -rn` prints elsewhere. Out: the
router's IPv4 address, or "" where there is none. Nothing is sent.
"""

import asyncio
import re
import struct
from collections.abc import Iterable
from ipaddress import IPv4Address
from pathlib import Path

LINUX_TABLE = Path("/proc/net/route")
NETSTAT_S = 5.0
MAX_OUTPUT_BYTES = 1 << 20
_UP_GATEWAY = 0x3
_DEFAULT = {"default", "0.0.0.0", "0/1"}
_BYTE = r"(?:25[0-5]|2[0-4]\d|1?\d?\d)"
_IPV4 = re.compile(rf"{_BYTE}(?:\.{_BYTE}){{3}}")


async def default_router() -> str:
    """See the module."""
    table = await asyncio.to_thread(_linux_table)
    return from_linux_table(table) if table else from_netstat(await _netstat())


def from_linux_table(lines: Iterable[str]) -> str:
    """Of the default route with the lowest metric."""
    found: list[tuple[int, str]] = []
    for line in lines:
        match line.split():
            case [_, "00000000", gateway, flags, _, _, metric, "00000000", *_]:
                if int(flags, 16) & _UP_GATEWAY == _UP_GATEWAY:
                    packed = struct.pack("=I", int(gateway, 16))  # in the machine's byte order
                    found.append((int(metric), str(IPv4Address(packed))))
    return min(found)[1] if found else ""


def from_netstat(text: str) -> str:
    """Of `default GATEWAY …` on macOS and the BSDs, `0.0.0.0 0.0.0.0 GATEWAY …` on Windows."""
    for line in text.splitlines():
        destination, *rest = [*line.split(), ""]
        if destination not in _DEFAULT:
            continue
        addresses = [word for word in rest if _IPV4.fullmatch(word) and word != "0.0.0.0"]
        if addresses:
            return addresses[0]
    return ""


def _linux_table() -> list[str]:
    try:
        return LINUX_TABLE.read_text().splitlines()
    except OSError:
        return []


async def _netstat() -> str:
    try:
        process = await asyncio.create_subprocess_exec(
            "netstat",
            "-rn",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError:
        return ""
    try:
        async with asyncio.timeout(NETSTAT_S):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return ""
    return output[:MAX_OUTPUT_BYTES].decode(errors="replace")
