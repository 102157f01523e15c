"""How far honest rows differ on this machine, and how far those of cheaper weights do.

In: a model's directory and the way it is served. Out: a fingerprint profile. The model writes texts
of its own, every way of running them is compared with one prefill, which is what an auditor does.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from manyhands.calibrating.thresholds import FALSE_REJECTS, set_drawn, set_thresholds
from protocol.errors import ConfigError, UsageError
from protocol.fingerprint import Distance, compare, sketch
from protocol.fp_profile import FingerprintProfile
from protocol.profile import Profile
from protocol.redrawing import shortfall
from protocol.windows import Window, windows_of
from protocol.wire import wire_format

if TYPE_CHECKING:
    from node.engine import ShardEngine
    from node.recomputing import Again
    from node.ways import Ran

CHEAPER: dict[tuple[str, str], tuple[tuple[str, str], ...]] = {
    ("float32", "none"): (("bfloat16", "none"), ("float32", "int8"), ("float32", "4bit")),
    ("bfloat16", "none"): (("bfloat16", "int8"), ("bfloat16", "4bit")),
    ("float16", "none"): (("float16", "int8"), ("float16", "4bit")),
}
N_PROMPT, LENGTH = 45, 129  # ids: a prompt that ends within a window, four windows in all
SESSIONS = 8  # that differ
Report = Callable[[str, float], None]


@dataclass(slots=True)
class Sample:
    """Distances of windows by how many blocks are before them, and by how much draws fell short."""

    distances: dict[int, list[Distance]] = field(default_factory=dict)
    shortfalls: list[float] = field(default_factory=list)

    def add(self, ran: "Ran", again: "Again") -> None:
        """What one session was, to what an auditor makes of its ids."""
        for border, rows in ran.rows.items():
            for start, stop in windows_of(0, len(rows)):
                claimed = Window(start, sketch(rows[start:stop]).tobytes())
                distance = compare(claimed, again.rows[border][start:stop])
                self.distances.setdefault(border, []).append(distance)

    def __len__(self) -> int:
        return sum(map(len, self.distances.values()))

    def add_draws(self, index: int, ran: "Ran", again: "Again") -> None:
        from node.ways import params_of

        assert again.logits is not None
        for position, drawn in ran.drawn.items():
            ids, logits = ran.ids[:position], again.logits[position - 1]
            missed = shortfall(logits, params_of(index), ids, drawn, n_prompt=ran.n_prompt)
            self.shortfalls.append(missed)


def calibrate(
    directory: Path,
    engine: "ShardEngine",
    *,
    wire: str,
    manifest: str,
    n_windows: int,
    software: str,
    report: Report,
) -> FingerprintProfile:
    """Thresholds for how `engine`, a whole model, is run.

    Raises:
        ManyhandsError: it cannot be run so.
    """
    from node.recomputing import run_again
    from node.ways import all_ways, run_way, write_text

    if engine.span.start or engine.span.stop != engine.n_blocks:
        raise UsageError("thresholds are set by a whole model, from its first block to its last")
    profile = Profile(engine.profile.dtype, engine.profile.quantization, wire)
    borders = borders_of(engine.n_blocks)
    import torch

    ways, honest, seed = all_ways(torch.get_num_threads()), Sample(), 0
    while len(honest) < n_windows:
        texts = write_text(engine, SESSIONS, N_PROMPT, LENGTH, seed)
        again = [run_again(engine, ids[:-1], borders) for ids in texts]
        for way in ways:
            ran = run_way(engine, texts, N_PROMPT, borders, wire_format(wire), way, draws=True)
            for index, (one, other) in enumerate(zip(ran, again, strict=True)):
                honest.add(one, other)
                honest.add_draws(index % way.batch, one, other)
            report("honest windows", min(1.0, len(honest) / n_windows))
            if len(honest) >= n_windows:
                break
        seed += SESSIONS
    both = {border: set_thresholds(told) for border, told in honest.distances.items()}
    thresholds = {border: limits for border, (limits, _) in both.items()}
    rejected = {}
    for name, sample in _cheaper(directory, engine, profile, texts, again, borders, report):
        refused = [
            thresholds[border].judge(distance) is False
            for border, told in sample.distances.items()
            for distance in told
        ]
        rejected[name] = sum(refused) / len(refused)
    return FingerprintProfile(
        execution=str(profile),
        manifest=manifest,
        thresholds=thresholds,
        n_windows=len(honest),
        honest={border: seen for border, (_, seen) in both.items()},
        drawn=set_drawn(honest.shortfalls),
        false_rejects=FALSE_REJECTS,
        rejected=rejected,
        measured_with=software,
    )


def borders_of(n_blocks: int) -> list[int]:
    """Where hops may end, eight of them at most."""
    return sorted({max(1, n_blocks * part // 8) for part in range(1, 9)})


def _cheaper(
    directory: Path,
    engine: "ShardEngine",
    profile: Profile,
    texts: Sequence[tuple[int, ...]],
    again: Sequence["Again"],
    borders: Sequence[int],
    report: Report,
) -> "list[tuple[str, Sample]]":
    """What the same texts come to with cheaper weights, where this machine can make them."""
    from node.engine import load_shard
    from node.ways import Way, run_way

    found: list[tuple[str, Sample]] = []
    for dtype, quantize in CHEAPER.get((profile.dtype, profile.quantization), ()):
        name = f"{dtype}/{quantize}"
        report(f"as {name}", 0.0)
        try:
            other = load_shard(
                directory, None, dtype=dtype, quantize=quantize, device=str(engine.device)
            )
        except ConfigError:
            continue  # the extra that quantizes is not installed here
        sample = Sample()
        wire = wire_format(profile.wire)
        for ran, right in zip(
            run_way(other, texts, N_PROMPT, borders, wire, Way(batch=4)), again, strict=True
        ):
            sample.add(ran, right)
        found.append((name, sample))
        report(f"as {name}", 1.0)
    return found
