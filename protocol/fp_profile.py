"""Which distances between fingerprints are honest: thresholds for one model and execution profile.

In: what honest runs measured (`manyhands ledger calibrate`), as a file. Out: a judgement of a
distance. A profile is named by its algorithm and the hash of its bytes, so that a verdict says
which thresholds it applied. Two honest nodes never agree to the last bit; how far they differ
depends on dtype, depth and kernels, and has to be measured.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from hashlib import sha256
from importlib import resources
from math import isfinite
from pathlib import Path
from typing import Any, Self

from protocol.errors import ConfigError
from protocol.fingerprint import ALGORITHM, Distance
from protocol.profile import Profile

SCHEMA = "manyhands/fingerprint-profile/v1"
MAX_BYTES = 64 * 1024
LEAST_ROWS = 8
"""Of a window that is judged: the estimate of a few rows is too rough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """What honest windows stay below; see `fingerprint.Distance`.

    drawn: by how much a claimed draw's logit plus noise may lie below the best, see `redrawing`.
    """

    mean: float
    median: float
    worst: float
    drawn: float

    def judge(self, distance: Distance) -> bool | None:
        """Whether it is honest; None: too few rows to say."""
        if distance.rows < LEAST_ROWS:
            return None
        return (
            distance.mean <= self.mean
            and distance.median <= self.median
            and distance.worst <= self.worst
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FingerprintProfile:
    """Thresholds, what they are for, and what they were set from.

    execution: dtype, quantization and wire, as `protocol.profile` spells them. manifest: of the
    model, in hex; empty: of any model, which is rougher. n_windows: honest ones measured; honest:
    the largest distances among them. rejected: of the next cheaper quantization that was tried, by
    its name, which share of windows these thresholds refuse.
    """

    execution: str
    manifest: str
    thresholds: Thresholds
    n_windows: int
    honest: Thresholds
    false_rejects: float
    rejected: Mapping[str, float]
    measured_with: str

    def __post_init__(self) -> None:
        Profile.parse(self.execution)
        for value in (*asdict(self.thresholds).values(), *asdict(self.honest).values()):
            if type(value) not in (int, float) or not isfinite(value) or value < 0:
                raise ConfigError("a threshold is a number, 0 or more")

    @property
    def name(self) -> str:
        """As offers and verdicts name it."""
        return f"{ALGORITHM}/{sha256(self.encode()).hexdigest()[:16]}"

    def encode(self) -> bytes:
        """As a file has it."""
        told = {"schema": SCHEMA, "algorithm": ALGORITHM, **asdict(self)}
        return (json.dumps(told, indent=2, sort_keys=True) + "\n").encode()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises ConfigError: it is no profile of this version."""
        try:
            told: dict[str, Any] = json.loads(data)
            if (told.pop("schema"), told.pop("algorithm")) != (SCHEMA, ALGORITHM):
                raise ValueError("another version")
            if set(told) != {each.name for each in fields(cls)}:
                raise ValueError("other fields")
            for name in ("thresholds", "honest"):
                told[name] = Thresholds(**told[name])
            return cls(**told)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ConfigError(
                f"this is no fingerprint profile: {error}",
                hint="make one: manyhands ledger calibrate MODEL",
            ) from error

    @classmethod
    def load(cls, path: Path) -> Self:
        """Raises ConfigError: it cannot be read, or is none."""
        try:
            with path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
        if len(data) > MAX_BYTES:
            raise ConfigError(f"{path} is too large for a fingerprint profile")
        return cls.decode(data)


@lru_cache(maxsize=1)
def shipped() -> Mapping[str, FingerprintProfile]:
    """Those that come with Manyhands, by execution profile: of the built-in model, on CPUs."""
    folder = resources.files("protocol") / "fp_profiles"
    if not folder.is_dir():
        return {}
    read = [
        FingerprintProfile.decode(file.read_bytes())
        for file in sorted(folder.iterdir(), key=lambda file: file.name)
        if file.name.endswith(".json")
    ]
    return {profile.execution: profile for profile in read}


def fp_profile_of(profile: Profile) -> str:
    """What an offer to run in this profile says: the thresholds that are shipped for it, if any."""
    known = shipped().get(str(profile))
    return known.name if known else ALGORITHM
