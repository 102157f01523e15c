"""A router that forwards a port when it is asked to: miniupnpd on a lab's router."""

import shutil

from tests.namespaces.lab import Router

UPNP_NETWORK = "239.255.255.250/32"


def miniupnpd(router: Router, *, natpmp: bool, upnp: bool) -> None:
    """Start the real thing on a lab's router, as Debian packages it.

    Its public address may not be of a documentation range, so it is told another one; what peers
    see is the router's own.
    """
    config = router.lab.directory / f"{router.name}-miniupnpd.conf"
    yes = {True: "yes", False: "no"}
    config.write_text(
        f"""ext_ifname=wan
ext_ip=8.7.6.5
listening_ip=br0
enable_natpmp={yes[natpmp]}
enable_upnp={yes[upnp]}
secure_mode=yes
system_uptime=yes
uuid=884d002f-b25e-42ba-8c5e-7d6cf521459d
upnp_table_name=miniupnpd
upnp_nat_table_name=miniupnpd
upnp_forward_chain=forward
upnp_nat_chain=prerouting
upnp_nat_postrouting_chain=postrouting
allow 1024-65535 {router.network}.0/24 1024-65535
deny 0-65535 0.0.0.0/0 0-65535
"""
    )
    table = router.lab.directory / f"{router.name}-miniupnpd.nft"
    table.write_text(
        """table inet miniupnpd {
    chain forward { type filter hook forward priority 0; policy accept; }
    chain prerouting { type nat hook prerouting priority -100; policy accept; }
    chain postrouting { type nat hook postrouting priority 100; policy accept; }
}
"""
    )
    assert router.run("nft", "-f", table).code == 0
    # The lab's router drops what is new from outside, but what miniupnpd forwards.
    router.iptables("-I FORWARD -i wan -m conntrack --ctstate DNAT -j ACCEPT")
    router.start("ip", "route", "add", UPNP_NETWORK, "dev", "br0").wait(timeout=10)
    router.start("miniupnpd", "-d", "-f", config, "-P", config.with_suffix(".pid"))


def why_no_miniupnpd() -> str:
    """What keeps this machine from it; empty if nothing does."""
    if shutil.which("miniupnpd") and shutil.which("nft"):
        return ""
    return "not installed: miniupnpd with nft (apt-get install miniupnpd-nftables)"
