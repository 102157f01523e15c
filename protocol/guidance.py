"""Which token may come next in an answer that has to follow a grammar.

In: a model's tokenizer, a grammar, the answer so far. Out: what to add to the logits: nothing, or
minus infinity. llguidance does the work (Earley's algorithm over a lexer made of derivatives of
regular expressions; Moskal et al. 2025); this file keeps it within bounds, and out of the way of
whoever draws: what may follow a token is found out on other threads, where the library holds no
lock of Python's, while the model runs that token. Strangers send grammars, so

* what one may cost is counted in the library's own units, never timed: a grammar that is refused
  on one machine is refused on all;
* the library recurses while it compiles, and a chain of a few thousand references in 64 KiB would
  overflow a thread's usual stack and end the process (measured: up to 32 MiB are used). So it is
  compiled on a thread of its own with a stack that none of that size can fill.

The state is a pure function of the answer's ids: who takes a hop's place in the middle of an answer
compiles again, reads them, and goes on.
"""

import json
import math
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from protocol.ahead import Ahead
from protocol.errors import ManyhandsError, UsageError
from protocol.grammar import Grammar, Kind
from protocol.text import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

Floats = npt.NDArray[np.float32]
T = TypeVar("T")

STACK_BYTES = 512 << 20  # of addresses; only what is used takes memory
# Of one row of Earley's: what has been read, in all the ways that the grammar leaves open. A row
# costs up to their square. Of a schema they are as many as it has alternatives at one place; in an
# ambiguous grammar they grow with the answer, and 35 bytes of one cost 180 ms a token at 2,000.
MAX_LARK_ITEMS, MAX_JSON_ITEMS = 500, 2_000
LEAST_NUMBER = -(10**18)  # the library's ranges of integers recurse without an end near -(2**63)
_EMBEDDED = re.compile(r"%json\s*\{")
MAX_REMAINDERS = 10_000  # of divisors in one schema; a million took 15 s and 470 MB
MAX_DIGITS = 9  # of a divisor before its point
SLOW_S = 0.005  # of CPU: longer than a forward takes, as a rule
MAX_THREADS = 4  # of one model, for the answers that are drawn in one step
ANY_OBJECT = '{"type":"object"}'
_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
_BARS = np.where(_BITS, np.float32(0), np.float32(-np.inf))  # of each byte of a mask
_starting = threading.Lock()  # one thread at a time: the size of stacks is the process's


class Guide:
    """A compiled grammar and how far one answer has come in it. Used by one thread at a time."""

    def __init__(self, grammar: Grammar, matcher: "LLMatcher", ahead: Ahead) -> None:
        self._grammar, self._matcher, self._ahead = grammar, matcher, ahead
        self._turn = threading.Lock()  # held by whoever has the matcher
        self._read: list[int] = []
        self._mask = b""  # a bit for each id that may follow what was read; none: not known yet
        self._bars: Floats | None = None  # made of that ahead
        self._is_slow = False  # as the last look ahead was

    def begin(self, answer: Sequence[int], vocab_size: int) -> None:
        """Find out what may follow these, on another thread: `bars` will be asked."""
        with self._turn:
            pass  # what was begun before has ended
        self._ahead.begin(partial(self._look, list(answer), vocab_size), self._turn)

    @property
    def is_held_up(self) -> bool:
        """Whether `bars` would wait for long: what was begun is not done, and was slow before."""
        return self._is_slow and self._turn.locked()

    def bars(self, answer: Sequence[int], vocab_size: int) -> Floats:
        """What to add to the logits, [vocab_size]: 0 to those of ids that may follow these, also
        to those that end the answer where the grammar is satisfied; minus infinity to the others.

        Raises:
            BadGrammar: it grew beyond its bounds, or `answer` is none of its own.
        """
        with self._turn:
            self._follow(list(answer))
            bars, self._bars = self._bars, None
            if bars is None or len(bars) != vocab_size:
                bars = self._spread(vocab_size)
            return bars

    def _look(self, answer: list[int], vocab_size: int) -> None:
        began_s = time.thread_time()
        self._follow(answer)
        if not self._matcher.is_stopped():
            self._bars = self._spread(vocab_size)
        self._is_slow = time.thread_time() - began_s > SLOW_S

    def _spread(self, vocab_size: int) -> Floats:
        mask = np.frombuffer(self._masked(), np.uint8)
        if not mask.any():
            raise self._grammar.error("nothing can follow here")
        bars: Floats = _BARS.take(mask, axis=0).ravel()[:vocab_size]
        missing = vocab_size - len(bars)
        return np.pad(bars, (0, missing), constant_values=-np.inf) if missing else bars

    def _masked(self) -> bytes:
        if not self._mask:
            mask = self._matcher.compute_bitmask()
            if self._matcher.is_error():  # for good: its masks then let the answer end, only
                raise self._error()
            self._mask = mask
        return self._mask

    def _follow(self, answer: list[int]) -> None:
        known = self._read
        if answer == known:
            return
        self._mask, self._bars = b"", None
        if answer[: len(known)] != known:  # drawn once, and cut since
            self._matcher.reset()
            known = []
        if not self._matcher.consume_tokens(answer[len(known) :]):
            raise self._error()
        self._read = answer

    def _error(self) -> UsageError:
        return self._grammar.error(_first_line(self._matcher.get_error()))


class Guidance:
    """Compiles grammars for one model's vocabulary; made once, for it takes time.

    Raises:
        UsageError: the model has no token that ends an answer, or llguidance cannot read its own.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        if not tokenizer.eos_ids:
            raise UsageError("this model has no token that ends an answer, as a grammar needs")
        self._tokenizer = _on_a_tall_stack(lambda: _read_vocabulary(tokenizer))
        self._ahead = Ahead(min(MAX_THREADS, os.cpu_count() or 1), "masks")

    def compile(self, grammar: Grammar) -> Guide:
        """Blocks the calling thread, for a second at worst; others run meanwhile.

        Raises:
            BadGrammar, BadSchema: it makes no sense, is not supported, allows nothing, or is too
                large in the library's own count.
        """
        try:
            return _on_a_tall_stack(lambda: self._compile(grammar))
        except ManyhandsError:
            raise
        except BaseException as error:  # its panics are no `Exception`
            if isinstance(error, Exception) or type(error).__name__ == "PanicException":
                raise grammar.error(_first_line(str(error))) from error
            raise

    def _compile(self, grammar: Grammar) -> Guide:
        from llguidance import LLMatcher, LLParserLimits

        limits = LLParserLimits(  # the library's are made for callers who trust their grammars
            max_items_in_row=MAX_LARK_ITEMS if grammar.kind is Kind.LARK else MAX_JSON_ITEMS,
            max_lexer_states=20_000,  # of about 2 kB: all live through the session
            max_grammar_size=200_000,
            step_lexer_fuel=100_000,  # some 7 ms
            step_max_items=25_000,  # 1 ms, or 40 where rows are as long as they may be
            verbose_errors=False,
        )
        matcher = LLMatcher(self._tokenizer, _written(grammar), log_level=0, limits=limits)
        if matcher.is_error():
            raise grammar.error(_first_line(matcher.get_error()))
        guide = Guide(grammar, matcher, self._ahead)
        guide.bars((), self._tokenizer.vocab_size)  # it says if nothing can be
        return guide


def _read_vocabulary(tokenizer: Tokenizer) -> "LLTokenizer":
    from llguidance import LLTokenizer

    try:
        return LLTokenizer(tokenizer.to_json(), eos_token=sorted(tokenizer.eos_ids))
    except Exception as error:  # the library's are bare
        raise UsageError(
            f"grammars cannot be used with this model's tokenizer: {_first_line(str(error))}"
        ) from error


def _written(grammar: Grammar) -> str:
    """As the library reads it."""
    from llguidance import LLMatcher

    match grammar.kind:
        case Kind.REGEX:
            return LLMatcher.grammar_from_regex(grammar.text)
        case Kind.LARK:
            _check_embedded(grammar)
            return LLMatcher.grammar_from_lark(grammar.text)
        case Kind.JSON_OBJECT | Kind.JSON_SCHEMA:
            schema = grammar.text or ANY_OBJECT
            _check(grammar, _reader(grammar).decode(schema))
            return LLMatcher.grammar_from_json_schema(
                schema, overrides={"whitespace_flexible": False, "lenient": False}
            )


def _check_embedded(grammar: Grammar) -> None:
    """The schemas within a Lark grammar, wherever they stand: the library reads them as its own."""
    if grammar.text.lstrip().startswith("{"):
        raise grammar.error("it is JSON and no Lark")  # the library's own format, unbounded
    reader = _reader(grammar)
    for found in _EMBEDDED.finditer(grammar.text):
        try:
            schema, _ = reader.raw_decode(grammar.text, found.end() - 1)
        except (ValueError, RecursionError) as error:
            raise grammar.error("what stands after %json is no JSON") from error
        _check(grammar, schema)


def _reader(grammar: Grammar) -> json.JSONDecoder:
    """It refuses numbers that end the process, also those of keys that come twice."""

    def number(digits: str) -> Decimal:
        value = Decimal(digits)
        if value < LEAST_NUMBER:
            raise grammar.error(f"numbers in it are {LEAST_NUMBER:,} at least")
        return value

    return json.JSONDecoder(parse_float=number, parse_int=number)


def _check(grammar: Grammar, schema: object) -> None:
    if remainders(schema) > MAX_REMAINDERS:
        raise grammar.error(f"its `multipleOf` together have more than {MAX_REMAINDERS} remainders")


def remainders(schema: object) -> int:
    """How many states it takes at most to divide by each `multipleOf` of a schema at once: the
    library keeps one for each remainder, before it counts anything.
    """
    divisors, waiting = set(), [schema]
    while waiting:
        match waiting.pop():
            case dict() as table:
                waiting += table.values()
                divisor = table.get("multipleOf")
                if isinstance(divisor, Decimal):
                    divisors.add(divisor.normalize())
            case list() as items:
                waiting += items
    return math.prod(_units(each) for each in divisors)


def _units(divisor: Decimal) -> int:
    """How often its last decimal place goes into it."""
    _, digits, exponent = divisor.as_tuple()
    if not isinstance(exponent, int) or exponent + len(digits) > MAX_DIGITS:
        return MAX_REMAINDERS + 1
    return int(Decimal((0, digits, max(0, exponent)))) or 1


def _on_a_tall_stack(work: Callable[[], T]) -> T:
    """`work` on a thread of its own, while the caller waits."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # the caller's, also a panic of the library's
            errors.append(error)

    with _starting:
        usual = threading.stack_size(STACK_BYTES)
        try:
            thread = threading.Thread(target=run, name="grammar")
            thread.start()
        finally:
            threading.stack_size(usual)
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _first_line(text: str) -> str:
    """What the library says, without the picture of the grammar it draws below."""
    return text.strip().partition("\n")[0][:300] or "the library gives no reason"
