"""How the demo tells its story: lines for people, on stdout or, beside JSON, on stderr."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from manyhands.local import LocalNode
from manyhands.reckoning import Reckoning

if TYPE_CHECKING:
    from scheduler.request import Event, GenerationResult

NCR_PER_CREDIT = 10**9


class Teller:
    """Says things; knows nothing."""

    def __init__(self, *, to_stderr: bool) -> None:
        self._to_stderr = to_stderr

    def line(self, text: str = "") -> None:
        click.echo(text, err=self._to_stderr)

    def piece(self, text: str) -> None:
        """A part of a line."""
        click.echo(text, nl=False, err=self._to_stderr)

    def title(self, text: str) -> None:
        self.line()
        self.line(click.style(text, bold=True))

    def good(self, text: str) -> None:
        self.line(click.style("✓ ", fg="green") + text)

    def ready(self, node: LocalNode) -> None:
        self.line(
            f"  {name_of(node):<8} {short(node.address.peer_id)}  blocks {node.span!s:<6} "
            f"ready in {node.ready_s:.1f} s"
        )

    def killed(self, node: LocalNode) -> None:
        self.piece(click.style(f" ✂ {name_of(node)} killed ✂ ", fg="red", bold=True))

    def text(self, event: "Event") -> None:
        """An answer as it streams."""
        from scheduler.request import Token

        if isinstance(event, Token) and event.text:
            self.piece(event.text)

    def speed(self, result: "GenerationResult", by_peer: Callable[[str], LocalNode | None]) -> None:
        hops = []
        for step in result.route:
            node = by_peer(step.peer)
            name = name_of(node) if node else short(step.peer)
            hops.append(f"{name} {step.span} {step.run_ms:.1f} ms")
        per_s = 1000 / result.tpot_ms if result.tpot_ms else 0.0
        self.line()
        self.line(
            f"{len(result.token_ids)} tokens, {per_s:.1f} tokens/s, first after "
            f"{result.ttft_ms:.0f} ms; per hop: {' → '.join(hops)}"
        )

    def statements(self, found: Reckoning) -> None:
        """A line per party, in credits."""
        self.line(f"  {'party':<9}{'tabs':>5}{'token·blocks':>14}{'earned':>14}{'spent':>14}")
        for party in found.parties:
            earned, spent = (
                f"{ncr / NCR_PER_CREDIT:.6f}" for ncr in (party.earned_ncr, party.spent_ncr)
            )
            self.line(
                f"  {party.name:<9}{party.n_tabs:>5}{party.token_blocks:>14}{earned:>14}{spent:>14}"
            )


def name_of(node: LocalNode) -> str:
    return f"node {node.index + 1}"


def short(peer_id: str) -> str:
    return f"{peer_id[:8]}…{peer_id[-6:]}"
