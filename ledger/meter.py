"""What a hop's work is measured in, how both sides derive it, and what it costs.

In: which positions a hop ran, and how many bytes it took in. Out: seven counters and a price. All
of it is integer arithmetic on what both sides see, never time, watts or FLOPs, so that a client
derives each hop's meter from its prompt and the token events alone (DESIGN 5a.11). Counters are
cumulative over a tab, and a price is one floor over the cumulative counters: rounding costs less
than one ncr however many windows the tab is cut into.
"""

from dataclasses import dataclass, fields, replace
from typing import Any, Self

from ledger.errors import BadObject
from protocol.canonical import MAX_UINT

CONTEXT_UNIT = 1024  # positions: attention is billed by how far back it reads, in these
CACHE_UNIT = 256  # positions of KV room in one lease quantum
LEASE_UNIT_S = 60
RATE_UNIT = 10**6  # rates are ncr per this many units


@dataclass(frozen=True, slots=True)
class Meter:
    """Seven cumulative counters of one tab. `a <= b`: no counter of `a` is above `b`'s."""

    prefill_tl: int = 0  # positions below the committed length x blocks
    decode_tl: int = 0  # positions from it on x blocks, also those later refused
    cached_tl: int = 0  # positions served from a shared prefix x blocks
    ctx_ktl: int = 0  # sum over positions of floor(position / 1024), x blocks
    kv_q: int = 0  # quanta of KV room x time, counted when granted
    act_kib: int = 0  # KiB of input rows accepted
    head_tok: int = 0  # positions the head and sampler ran for

    def __post_init__(self) -> None:
        for value in _counters(self):
            if type(value) is not int or not 0 <= value <= MAX_UINT:
                raise BadObject(f"a counter is an integer in [0, 2^63), got {value!r}")

    def __add__(self, other: Self) -> Self:
        return type(self)(*map(int.__add__, _counters(self), _counters(other)))

    def __le__(self, other: Self) -> bool:
        return all(map(int.__le__, _counters(self), _counters(other)))

    def smaller(self, other: Self) -> Self:
        """The lower of the two, counter by counter: what both sides agree was done."""
        return type(self)(*map(min, _counters(self), _counters(other)))

    def to_fields(self) -> tuple[int, ...]:
        return _counters(self)

    @classmethod
    def from_fields(cls, values: Any) -> Self:
        if type(values) not in (list, tuple) or len(values) != N_COUNTERS:
            raise BadObject(f"a meter has {N_COUNTERS} counters")
        return cls(*values)


@dataclass(frozen=True, slots=True)
class Rates(Meter):
    """The price of a million units of each counter, in ncr. All zero: a donation."""

    @property
    def is_free(self) -> bool:
        return not any(_counters(self))


N_COUNTERS = len(fields(Meter))


def price(rates: Rates, meter: Meter) -> int:
    """What a tab's cumulative meter costs, in ncr.

    Raises:
        BadObject: more than an amount can hold.
    """
    total = sum(map(int.__mul__, _counters(rates), _counters(meter))) // RATE_UNIT
    if total > MAX_UINT:
        raise BadObject("the price of this meter is beyond 2^63 ncr")
    return total


def most_rows(rates: Rates, meter: Meter, limit_ncr: int, dearest: int) -> int:
    """How many rows, none above `dearest` (`dearest_row`), surely keep the price of all within
    `limit_ncr`; below 0: it is passed already.
    """
    used = sum(map(int.__mul__, _counters(rates), _counters(meter)))
    left = (limit_ncr + 1) * RATE_UNIT - 1 - used
    return left // dearest if dearest else (MAX_UINT if left >= 0 else -1)


def dearest_row(rates: Rates, n_blocks: int, capacity: int, row_bytes: int) -> int:
    """What one more row below position `capacity` costs at most, in millionths of an ncr."""
    position = max(rates.prefill_tl, rates.decode_tl) + rates.ctx_ktl * (capacity // CONTEXT_UNIT)
    return position * n_blocks + rates.act_kib * -(-row_bytes // 1024) + rates.head_tok


def lease_quanta(max_positions: int, lease_s: float) -> int:
    """KV room for `max_positions` over `lease_s` seconds, in quanta, each begun one counted."""
    seconds = -int(-lease_s // 1)
    return -(-max_positions // CACHE_UNIT) * -(-seconds // LEASE_UNIT_S)


def head_rows(start: int, stop: int, committed: int) -> int:
    """For how many of positions [start, stop) the last hop runs its head: from n - 1 on (5a.5)."""
    return max(0, stop - max(start, committed - 1))


@dataclass(frozen=True, slots=True)
class Usage:
    """The exact tally behind a meter: positions and bytes, before blocks and KiB.

    Both sides keep one per tab. It is a value: `tab.may_run(usage.after(...).meter())` asks about
    a step, and keeping the result says that it ran.
    """

    n_blocks: int
    kv_q: int = 0
    prefilled: int = 0
    decoded: int = 0
    cached: int = 0
    context: int = 0  # sum over positions of floor(position / 1024)
    input_bytes: int = 0
    head_rows: int = 0

    @classmethod
    def opened(cls, n_blocks: int, max_positions: int, lease_s: float) -> Self:
        return cls(n_blocks, kv_q=lease_quanta(max_positions, lease_s))

    def after(
        self, start: int, stop: int, committed: int, row_bytes: int, *, head_rows: int = 0
    ) -> Self:
        """The tally once positions [start, stop) have run, in an epoch of this committed length.

        row_bytes: of one input row, as announced in the frame's header.
        head_rows: for the last hop, `head_rows(start, stop, committed)`; else 0.
        """
        if not 0 <= start <= stop:
            raise BadObject(f"positions run forward, got [{start}, {stop})")
        prefilled = max(0, min(stop, committed) - start)
        return replace(
            self,
            prefilled=self.prefilled + prefilled,
            decoded=self.decoded + (stop - start) - prefilled,
            context=self.context + _context_below(stop) - _context_below(start),
            input_bytes=self.input_bytes + (stop - start) * row_bytes,
            head_rows=self.head_rows + head_rows,
        )

    def after_cached(self, positions: int) -> Self:
        """The tally once a shared prefix has spared the hop `positions`."""
        return replace(self, cached=self.cached + positions)

    def meter(self) -> Meter:
        return Meter(
            prefill_tl=self.prefilled * self.n_blocks,
            decode_tl=self.decoded * self.n_blocks,
            cached_tl=self.cached * self.n_blocks,
            ctx_ktl=self.context * self.n_blocks,
            kv_q=self.kv_q,
            act_kib=self.input_bytes // 1024,
            head_tok=self.head_rows,
        )


class Tally:
    """A `Usage` that grows with every step: rows that go on where the last ended are added up
    first, and make a new value only when somebody asks.
    """

    def __init__(self, usage: Usage, row_bytes: int) -> None:
        self.n_rows = 0  # that ran, over all epochs
        self._usage, self._row_bytes = usage, row_bytes
        self._start = self._stop = self._committed = self._heads = 0  # what is not in it yet

    def add(self, start: int, stop: int, committed: int, head_rows: int) -> None:
        """See `Usage.after`."""
        if not 0 <= start <= stop:
            raise BadObject(f"positions run forward, got [{start}, {stop})")
        if start != self._stop or committed != self._committed:
            self._usage = self.usage
            self._start, self._committed, self._heads = start, committed, 0
        self._stop = stop
        self._heads += head_rows
        self.n_rows += stop - start

    @property
    def usage(self) -> Usage:
        """All of it."""
        if self._start != self._stop or self._heads:
            self._usage = self._usage.after(
                self._start, self._stop, self._committed, self._row_bytes, head_rows=self._heads
            )
            self._start, self._heads = self._stop, 0
        return self._usage


def _context_below(position: int) -> int:
    """The sum of floor(p / 1024) over all p below `position`, in closed form."""
    whole, rest = divmod(position, CONTEXT_UNIT)
    return CONTEXT_UNIT * (whole * (whole - 1) // 2) + whole * rest


def _counters(vector: Meter) -> tuple[int, ...]:
    return (
        vector.prefill_tl,
        vector.decode_tl,
        vector.cached_tl,
        vector.ctx_ktl,
        vector.kv_q,
        vector.act_kib,
        vector.head_tok,
    )
