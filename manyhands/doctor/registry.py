"""All checks of the doctor, in the order in which they are shown."""

from manyhands.doctor import (
    answering,
    dialled,
    hardware,
    keeping,
    network,
    others,
    system,
    trial,
    ways,
)
from manyhands.doctor.finding import Check
from protocol.errors import UsageError

CHECKS: tuple[Check, ...] = (
    *system.CHECKS,
    *hardware.CHECKS,
    *keeping.CHECKS,
    *network.CHECKS,
    *dialled.CHECKS,
    *ways.CHECKS,
    *others.CHECKS,
    *answering.CHECKS,
    *trial.CHECKS,
)


def chosen(only: tuple[str, ...], without: tuple[str, ...]) -> tuple[Check, ...]:
    """The checks by id; all but `without`, where `only` names none.

    Raises:
        UsageError: there is no such check.
    """
    known = {check.id for check in CHECKS}
    for name in (*only, *without):
        if name not in known:
            raise UsageError(f"there is no check {name[:40]!r}", hint="docs/doctor.md lists them")
    return tuple(
        check for check in CHECKS if (not only or check.id in only) and check.id not in without
    )
