"""How far honest work may deviate: by calibration where there is one, else by a rough rule.

In: an execution profile, a file of `ledger calibrate`. Out: thresholds, where they are from, and
whether they may accuse anybody.
"""

from dataclasses import dataclass
from pathlib import Path

from protocol.errors import ConfigError
from protocol.fp_profile import FingerprintProfile, Limits, Thresholds, find_profile
from protocol.profile import Profile

# Relative to a row's length. Honest kernels of one dtype stay ten times below, four-bit weights and
# skipped blocks are several times above (facts measured on spans of 4 to 12 blocks). Eight-bit
# weights under bfloat16 are not told apart by these: calibrate.
ROUGH = {
    "float32": Limits({1: Thresholds(mean=1e-3, median=1e-3, worst=5e-3)}, drawn=0.01),
    "bfloat16": Limits({1: Thresholds(mean=0.05, median=0.05, worst=0.15)}, drawn=0.5),
    "float16": Limits({1: Thresholds(mean=0.02, median=0.02, worst=0.06)}, drawn=0.1),
}


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Thresholds, and what they are called. is_measured: of this model, by honest runs; a rough
    rule makes suspicions, and no faults.
    """

    limits: Limits
    source: str
    is_measured: bool = True


def tolerance(
    manifest: bytes, profile: Profile, file: Path | None = None, folder: Path | None = None
) -> Tolerance:
    """By `file`, else measured in this home, in `folder`, else shipped, else by the rough rule.

    Raises:
        ConfigError: the file is no profile, or of another way of running models.
    """
    if file is not None:
        read = FingerprintProfile.load(file)
        if read.execution != str(profile):
            raise ConfigError(
                f"{file} was calibrated for {read.execution}, these hops run {profile}",
                hint=f"manyhands ledger calibrate, for {profile}",
            )
        if read.manifest != manifest.hex():
            raise ConfigError(
                f"{file} was calibrated for another model", hint="manyhands ledger calibrate MODEL"
            )
        return Tolerance(read.limits, read.name)
    if (known := find_profile(manifest, str(profile), folder)) is not None:
        return Tolerance(known.limits, known.name)
    rough = f"a rough rule for {profile.dtype}, which accuses nobody"
    return Tolerance(ROUGH[profile.dtype], rough, is_measured=False)
