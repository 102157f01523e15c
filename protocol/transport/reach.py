"""Which of this machine's addresses others can dial, and who answers at one.

In: the host a listener was given; an address to look at. Out: concrete hosts, best effort and
without sending a packet; the identity that a TLS server there proves. Confirming that strangers
reach us is left to a dial-back.
"""

import asyncio
import contextlib
import errno
import os
import socket
import ssl
from ipaddress import ip_address

from protocol.address import Address
from protocol.errors import ConfigError
from protocol.identity import PeerId
from protocol.tls import tls_name, verified_peer

# Documentation addresses (RFC 5737, RFC 3849): connecting a datagram socket sends nothing, it only
# asks the routing table which of our addresses would be the source.
_FAR_AWAY = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))
_ANY = {"0.0.0.0": {socket.AF_INET}, "::": {socket.AF_INET, socket.AF_INET6}}


def reachable_hosts(host: str) -> tuple[str, ...]:
    """What to publish for a listener on `host`: itself, unless it stands for every interface."""
    families = _ANY.get(host)
    if families is None:
        return (host,)
    hosts = [_source_towards(family, far) for family, far in _FAR_AWAY if family in families]
    found = [host for host in hosts if host and not ip_address(host).is_loopback]
    return tuple(dict.fromkeys(found)) or ("127.0.0.1",)


def why_not_listening(host: str, port: int) -> ConfigError:
    """What keeps us from listening there, found by trying with a plain socket."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    other = f"try another port, or port 0 to have one picked: --listen {host}:0"
    try:
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            if os.name == "posix":
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((host, port))
            trial.listen()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return ConfigError(f"port {port} on {host} is in use", hint=other)
        if error.errno == errno.EACCES:
            return ConfigError(f"port {port} needs privileges we do not have", hint=other)
        hint = "listen on one of this machine's addresses, or on 0.0.0.0 for all of them"
        return ConfigError(f"cannot listen on {host}: {error.strerror or error}", hint=hint)
    except OverflowError:
        return ConfigError(f"a port lies in 0..65535, got {port}", hint=other)
    return ConfigError(f"cannot listen on {host}:{port}", hint=other)


async def who_answers(
    address: Address, *, timeout_s: float, alerts: list[str] | None = None
) -> PeerId | None:
    """The identity behind a TLS server at `address`, whoever it is; None when there is no server.

    alerts: takes OpenSSL's word for why the other side broke the handshake off.

    Raises:
        IntegrityError: its certificate proves no identity.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # verified_peer below is the check
    context.set_alpn_protocols(["h2"])
    with contextlib.suppress(OSError, TimeoutError):
        try:
            async with asyncio.timeout(timeout_s):
                _, writer = await asyncio.open_connection(
                    address.host,
                    address.port,
                    ssl=context,
                    server_hostname=tls_name(address.peer_id),
                )
        except ssl.SSLError as error:
            if alerts is not None:
                alerts.append(error.reason or "")
            raise
        try:
            certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        finally:
            writer.transport.abort()
        if certificate:
            return verified_peer(ssl.DER_cert_to_PEM_cert(certificate).encode())
    return None


def _source_towards(family: socket.AddressFamily, far: str) -> str:
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((far, 9))
        return str(probe.getsockname()[0])
    return ""
