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
    """What honest windows stay below; see `fingerprint.Distance`."""

    mean: float
    median: float
    worst: float

    def judge(self, distance: Distance) -> bool | None:
        """Whether it is honest; None: too few rows to say."""
        if distance.rows < LEAST_ROWS:
            return None
        return (
            distance.mean <= self.mean
            and distance.median <= self.median
            and distance.worst <= self.worst
        )


@dataclass(frozen=True, slots=True)
class Limits:
    """Thresholds by how many blocks are before a window's rows, and by how much draws may fall
    short of the best.
    """

    thresholds: Mapping[int, Thresholds]
    drawn: float

    def at(self, stop: int) -> Thresholds:
        """For a span that ends in front of block `stop`: those of the least depth, not before it,
        that was measured.
        """
        deeper = [depth for depth in self.thresholds if depth >= stop]
        return self.thresholds[min(deeper, default=max(self.thresholds))]


@dataclass(frozen=True, slots=True, kw_only=True)
class FingerprintProfile:
    """Thresholds, what they are for, and what they were set from.

    execution: dtype, quantization and wire, as `protocol.profile` spells them. manifest: of the
    model, in hex. thresholds, honest: what is allowed, and the largest that was seen, of rows that
    left so many of the model's first blocks: errors grow with each. n_windows: honest ones
    measured. drawn: by how much a claimed draw may fall short of the best, see `redrawing`.
    rejected: of cheaper weights, by name, which share of windows these thresholds refuse.
    """

    execution: str
    manifest: str
    thresholds: Mapping[int, Thresholds]
    honest: Mapping[int, Thresholds]
    drawn: float
    n_windows: int
    false_rejects: float
    rejected: Mapping[str, float]
    measured_with: str

    def __post_init__(self) -> None:
        Profile.parse(self.execution)
        limits = (*self.thresholds.values(), *self.honest.values())
        told = [value for each in limits for value in asdict(each).values()]
        for value in (self.drawn, *told):
            if type(value) not in (int, float) or not isfinite(value) or value < 0:
                raise ConfigError("a threshold is a number, 0 or more")
        if not self.thresholds or min(self.thresholds) < 1:
            raise ConfigError("a profile has thresholds behind 1 block or more")

    @property
    def limits(self) -> Limits:
        return Limits(self.thresholds, self.drawn)

    def at(self, stop: int) -> Thresholds:
        """What rows are held to that leave a span in front of block `stop`."""
        return self.limits.at(stop)

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
                told[name] = {int(at): Thresholds(**each) for at, each in told[name].items()}
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
def shipped() -> Mapping[tuple[str, str], FingerprintProfile]:
    """Those that come with Manyhands, by manifest and execution: of the built-in model, on CPUs."""
    folder = resources.files("protocol") / "fp_profiles"
    read = [
        FingerprintProfile.decode(file.read_bytes())
        for file in sorted(folder.iterdir(), key=lambda file: file.name)
        if file.name.endswith(".json")
    ]
    return {(profile.manifest, profile.execution): profile for profile in read}


def file_name(manifest: str, execution: str) -> str:
    """What a profile is called in a folder of them."""
    return f"{manifest[:16]}-{execution.replace('/', '-')}.json"


def find_profile(
    manifest: bytes, execution: str, folder: Path | None = None
) -> FingerprintProfile | None:
    """The thresholds for this model, run like this: measured here, or shipped; None: nobody has
    measured them.

    Raises:
        ConfigError: what lies in the folder is no profile, or another's.
    """
    path = folder / file_name(manifest.hex(), execution) if folder else None
    if path is None or not path.exists():
        return shipped().get((manifest.hex(), execution))
    found = FingerprintProfile.load(path)
    if (found.manifest, found.execution) != (manifest.hex(), execution):
        raise ConfigError(f"{path} is about another model, or another way of running it")
    return found


def fp_profile_of(manifest: bytes, profile: Profile) -> str:
    """What an offer to run a model so says: the thresholds shipped for it, or the algorithm."""
    known = shipped().get((manifest.hex(), str(profile)))
    return known.name if known else ALGORITHM
