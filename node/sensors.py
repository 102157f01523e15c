"""Whether this machine runs on its battery, and for how long nobody has used it, by system.

In: nothing. Out: `Sensed`, with None for what this system does not say. Every question is a short
call on a thread. Batteries are psutil's. Of use: Windows and macOS count the time since the last
input; on Linux X servers do, so do terminals, and logind where the desktop tells it. A Wayland
desktop that tells nobody is not known, and neither is a machine where somebody sits in a way that
none of them sees.
"""

import ctypes
import ctypes.util
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

from node.manners import Sensed, Wishes

ASK_S = 3.0
NEVER_S = 10.0 * 365 * 86_400  # nobody is logged in
GRAPHICAL = ("x11", "wayland", "mir")


def sense(wishes: Wishes, environment: Mapping[str, str]) -> Sensed:
    """What those wishes need to know. Blocks for moments."""
    return Sensed(
        on_battery=on_battery() if wishes.pauses_on_battery else None,
        idle_s=idle_s(environment) if wishes.when_idle_s is not None else None,
    )


def on_battery() -> bool | None:
    """None: there is no battery, or nobody says."""
    ask = getattr(psutil, "sensors_battery", None)  # not on every system
    if ask is None:
        return None
    try:
        battery = ask()
    except (OSError, RuntimeError, ValueError):  # odd drivers
        return None
    if battery is None or battery.power_plugged is None:
        return None
    return not battery.power_plugged


def idle_s(environment: Mapping[str, str]) -> float | None:
    """Seconds since somebody used this machine; None: it does not say."""
    if sys.platform == "win32":
        return _windows_idle_s()
    if sys.platform == "darwin":
        return macos_idle_s(_output("ioreg", "-c", "IOHIDSystem", "-d", "4"))
    return _linux_idle_s(environment)


def _windows_idle_s() -> float | None:
    """GetLastInputInfo and GetTickCount, both in milliseconds that wrap after 49 days."""

    class LastInput(ctypes.Structure):
        _fields_ = (("size", ctypes.c_uint), ("ticks", ctypes.c_uint))

    libraries = getattr(ctypes, "windll", None)
    last = LastInput(ctypes.sizeof(LastInput), 0)
    if libraries is None or not libraries.user32.GetLastInputInfo(ctypes.byref(last)):
        return None
    now = int(libraries.kernel32.GetTickCount())
    return float((now - last.ticks) % 2**32) / 1000


def macos_idle_s(registry: str) -> float | None:
    """From what `ioreg` prints, in nanoseconds."""
    matched = re.search(r'"HIDIdleTime" = (\d+)', registry)
    return int(matched[1]) / 1e9 if matched else None


def _linux_idle_s(environment: Mapping[str, str]) -> float | None:
    """The least of all who are logged in; None where a desktop is there that does not tell."""
    known = list(_terminals_idle_s())
    for session in _sessions():
        if session.get("Type") not in GRAPHICAL or session.get("State") == "closing":
            continue
        idle = session_idle_s(session, time.time())
        if idle is None and session["Type"] == "x11":
            idle = x11_idle_s(environment.get("DISPLAY") or session.get("Display", ""))
        if idle is None:
            return None
        known.append(idle)
    if display := environment.get("DISPLAY", ""):
        if (idle := x11_idle_s(display)) is None and not known:
            return None
        known.extend([] if idle is None else [idle])
    return min(known, default=NEVER_S)


def _terminals_idle_s() -> Iterator[float]:
    """Of those who are logged in by terminal or network: reading a key marks its device."""
    now_s = time.time()
    for user in psutil.users():
        if not user.terminal or user.terminal.startswith(":"):
            continue
        try:
            yield max(0.0, now_s - Path("/dev", user.terminal).stat().st_atime)
        except OSError:
            continue


def _sessions() -> Iterator[dict[str, str]]:
    """Those of logind, as far as it is there."""
    for line in _output("loginctl", "list-sessions", "--no-legend").splitlines():
        if words := line.split():
            wanted = ("Type", "State", "Display", "IdleHint", "IdleSinceHint")
            flags = [f"--property={name}" for name in wanted]
            shown = _output("loginctl", "show-session", words[0], *flags)
            yield dict(pair.split("=", 1) for pair in shown.splitlines() if "=" in pair)


def session_idle_s(session: Mapping[str, str], now_s: float) -> float | None:
    """What a desktop told logind. One that never did says that nobody is idle since the epoch."""
    since = session.get("IdleSinceHint", "0")
    if not since.isdecimal() or int(since) == 0:
        return None
    return max(0.0, now_s - int(since) / 1e6) if session.get("IdleHint") == "yes" else 0.0


def x11_idle_s(display: str) -> float | None:
    """What an X server says by its screen saver extension."""
    names = [ctypes.util.find_library(name) for name in ("X11", "Xss")]
    if not display or None in names:
        return None

    class Info(ctypes.Structure):
        _fields_ = (
            ("window", ctypes.c_ulong),
            ("state", ctypes.c_int),
            ("kind", ctypes.c_int),
            ("til_or_since", ctypes.c_ulong),
            ("idle_ms", ctypes.c_ulong),
            ("event_mask", ctypes.c_ulong),
        )

    x11, saver = (ctypes.CDLL(name) for name in names)
    x11.XOpenDisplay.restype = x11.XDefaultRootWindow.restype = ctypes.c_void_p
    opened = x11.XOpenDisplay(os.fsencode(display))
    if not opened:
        return None
    try:
        root = x11.XDefaultRootWindow(ctypes.c_void_p(opened))
        info = Info()
        asked = (ctypes.c_void_p(opened), ctypes.c_void_p(root), ctypes.byref(info))
        return info.idle_ms / 1000 if saver.XScreenSaverQueryInfo(*asked) else None
    finally:
        x11.XCloseDisplay(ctypes.c_void_p(opened))


def _output(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    try:
        ended = subprocess.run(command, capture_output=True, timeout=ASK_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ended.stdout.decode(errors="replace") if ended.returncode == 0 else ""
