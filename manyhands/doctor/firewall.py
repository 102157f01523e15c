"""What this system's firewalls say of connections from outside, as far as a user may ask.

In: the tools that each system has for it. Out: what they print, and a finding about one port. What
a firewall really does is told by a dial-back alone; this names the command that opens the port.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from manyhands.doctor.finding import Finding, ok, skip, warn

ASK_S = 5.0
QUESTIONS: Mapping[str, Mapping[str, tuple[str, ...]]] = {  # by system: what is called what
    "linux": {
        "firewalld": ("firewall-cmd", "--list-all"),
        "iptables": ("iptables", "-S", "INPUT"),
    },
    "darwin": {"alf": ("/usr/libexec/ApplicationFirewall/socketfilterfw", "--getglobalstate")},
    "win32": {"netsh": ("netsh", "advfirewall", "show", "currentprofile")},
}
UFW = Path("/etc/ufw/ufw.conf")


def look_at_firewalls() -> dict[str, str]:
    """What each firewall that can be asked says; those that are not there or tell nothing are
    left out."""
    found = {}
    for name, command in QUESTIONS.get(sys.platform, {}).items():
        if shutil.which(command[0]) is None:
            continue
        try:
            asked = subprocess.run(command, capture_output=True, timeout=ASK_S, check=False)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if asked.returncode == 0:
            found[name] = asked.stdout.decode(errors="replace")
    with suppress(OSError):
        found["ufw"] = UFW.read_text(errors="replace")
    return found


def firewall_finding(said: Mapping[str, str], port: int) -> Finding:
    """About connections from outside to `port`."""
    if re.search(r"(?mi)^ENABLED=yes", said.get("ufw", "")):
        return _closed("ufw is on", f"sudo ufw allow {port}/tcp")
    if (firewalld := said.get("firewalld")) is not None and f"{port}/tcp" not in firewalld:
        opening = f"sudo firewall-cmd --add-port={port}/tcp --permanent && sudo firewall-cmd "
        return _closed("firewalld is on, and names no such port", f"{opening}--reload")
    if "iptables" in said and (why := _dropped(said["iptables"], port)):
        return _closed(why, f"sudo iptables -I INPUT -p tcp --dport {port} -j ACCEPT")
    if re.search(r"(?i)enabled|State = 1", said.get("alf", "")):
        return _closed(
            "macOS asks about each program that listens",
            "answer Allow, or System Settings, Network, Firewall, Options: allow python",
        )
    if re.search(r"(?mi)^\S+\s+ON\s*$", said.get("netsh", "")):
        rule = f"name=manyhands dir=in action=allow protocol=TCP localport={port}"
        adding = f"netsh advfirewall firewall add rule {rule}"
        return _closed("the Windows firewall is on", f"as administrator: {adding}")
    if not said:
        return skip("no firewall here tells us about itself; ask others to dial you")
    return ok(f"{', '.join(sorted(said))}: nothing closes port {port}, as far as they tell")


def _closed(why: str, fix: str) -> Finding:
    return warn(f"{why}: others may not get in", fix)


def _dropped(rules: str, port: int) -> str:
    """What in `iptables -S INPUT` keeps strangers from the port; the first rule that fits wins."""
    for line in rules.splitlines():
        if not line.startswith("-A INPUT") or not _is_about(line, port):
            continue
        if " -j ACCEPT" in line:
            return ""
        if re.search(r" -j (DROP|REJECT)\b", line):
            return f"iptables has: {line}"
    return "iptables drops by default" if "-P INPUT DROP" in rules else ""


def _is_about(rule: str, port: int) -> bool:
    """Whether a stranger's first packet to the port would match, as far as the words tell."""
    if re.search(r" (-i|-s|--ctstate|--state|-m set|--uid-owner) ", rule):
        return False
    if (protocol := re.search(r" -p (\S+)", rule)) and protocol[1] not in ("tcp", "all"):
        return False
    ports = re.search(r" --dports? (\S+)", rule)
    if ports is None:
        return True
    for part in ports[1].split(","):
        low, _, high = part.partition(":")
        if int(low or 0) <= port <= int(high or low or 65535):
            return True
    return False
