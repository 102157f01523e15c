"""What a tunnel through libp2p costs: round trips of gRPC through a hole, and over a circuit.

    python benchmarks/tunnels.py          # as root, with ip and iptables, and the libp2p extra

Three processes in network namespaces: a public relay, and two peers behind port-restricted routers.
Latencies are of messages there and back on one stream; CPU is of all three processes together, for
the bytes that went one way, so a message there and back counts twice.
"""

import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.namespaces.lab import Lab, Nat, why_not
from tests.namespaces.tunnel_peer import TunnelPeer

SIZES = {1024: 100, 16_384: 100, 262_144: 20, 4 * 2**20: 4}


def cpu_s(*peers: TunnelPeer) -> float:
    """Processor time of their processes so far."""
    total = 0.0
    for peer in peers:
        told = Path(f"/proc/{peer.process.pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(told[11]) + int(told[12])) / 100  # in hundredths of a second
    return total


def main() -> None:
    if missing := why_not():
        sys.exit(missing)
    print("| way | message | p50 ms | least ms | CPU s per GB |\n|---|---|---|---|---|")
    with Lab() as lab:
        relay = TunnelPeer(lab.host("relay"))
        there = TunnelPeer(lab.host("there", Nat.PORT_RESTRICTED), relay.address)
        here = TunnelPeer(lab.host("here", Nat.PORT_RESTRICTED), relay.address)
        relays = there.until("relays", bool)
        here.ask("echo", there.peer_id, relays, True, [1024])  # both ways are there from now on
        for is_punched in (True, False):
            for size, n in SIZES.items():
                before_s = cpu_s(relay, there, here)
                told = here.ask("echo", there.peer_id, relays, is_punched, [size] * n)
                if "error" in told:
                    sys.exit(str(told["error"]))
                per_gb = (cpu_s(relay, there, here) - before_s) / (2 * size * n / 1e9)
                p50, least = statistics.median(told["took_ms"]), min(told["took_ms"])
                way = "hole" if is_punched else "circuit"
                cost = f"{per_gb:.0f}" if size > 100_000 else ""
                print(f"| {way} | {size / 1024:g} KiB | {p50:.1f} | {least:.1f} | {cost} |")


if __name__ == "__main__":
    main()
