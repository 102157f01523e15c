"""Spend logs as adversaries write them, drawn at random, with branches that nobody cosigned."""

from hypothesis import strategies as st

from ledger.fold import Branch, TabClaim
from tests.ledger.spenders import (
    ANN,
    BEN,
    CY,
    ISSUER,
    SWARM,
    allot,
    chained,
    collect,
    credit_note,
    deposit,
    grant,
    promise,
    release,
    settle,
)

PEOPLE = (ANN, BEN, CY)
OTHER = BEN  # issues an asset of its own, too


def branch(owner, *envelopes, counts=True):
    return Branch(owner.public_key, tuple(chained(*envelopes)), counts)


class World:
    """Logs that grow together, entry by entry, with or without sense."""

    def __init__(self):
        self.entries = {owner: [] for owner in (ISSUER, *PEOPLE)}
        self.allots = []  # (payer, payee, asset, envelope)
        self.settled = {owner: [] for owner in PEOPLE}
        self.asked = {}
        self.tabs = []

    def leaves(self, owner):
        return tuple(chained(*self.entries[owner]))

    def branches(self, counts=True):
        return [
            Branch(owner.public_key, self.leaves(owner), counts)
            for owner, entries in self.entries.items()
            if entries
        ]


def _write(draw, world, number):
    """One more entry in some log."""
    kind = draw(
        st.sampled_from(
            ["grant", "allot", "allot", "settle", "deposit", "give", "note", "collect", "collect"]
        )
    )
    who = draw(st.sampled_from(PEOPLE))
    amount = draw(st.integers(1, 30))
    if kind == "grant":
        issuer = draw(st.sampled_from([ISSUER, ISSUER, OTHER]))
        world.entries[issuer].append(grant(who, amount, no=number, issuer=issuer))
    elif kind == "allot":
        payee = draw(st.sampled_from([other for other in PEOPLE if other is not who]))
        asset = draw(st.sampled_from([ISSUER, ISSUER, OTHER])).public_key
        envelope = allot(who, payee, amount, no=number, asset=asset)
        world.allots.append((who, payee, asset, envelope.object_id(SWARM), envelope))
        if draw(st.integers(0, 9)):  # else it is known, and nowhere logged
            world.entries[who].append(envelope)
    elif world.allots:
        payer, payee, asset, oid, envelope = draw(st.sampled_from(world.allots))
        _use(draw, world, kind, (payer, payee, asset, oid, envelope), amount)


def _use(draw, world, kind, made, amount):
    """Something that payees do with an allotment; now and then somebody else does it."""
    payer, payee, asset, oid, envelope = made
    others = [other for other in PEOPLE if other is not payer]
    by = payee if draw(st.integers(0, 5)) else draw(st.sampled_from(others))
    if kind == "settle":
        settled = settle(payer, by, (oid, amount), asset=asset)
        world.settled[by].append((settled, oid, amount))
        world.entries[by].append(settled)
        if draw(st.booleans()):
            _deposit(draw, world, by)
    elif kind == "deposit":
        _deposit(draw, world, by)
    elif kind == "collect":
        tabs = draw(st.lists(st.integers(0, 3), min_size=1, max_size=2))
        world.entries[by].append(
            collect(by, *(promise(payer, by, oid, amount, tab=tab, asset=asset) for tab in tabs))
        )
    elif kind == "give":
        world.entries[by].append(release(by, envelope, amount))
    else:
        tab = bytes([draw(st.integers(0, 3))]) * 16
        world.tabs.append(TabClaim(tab, oid, amount))
        world.entries[by].append(credit_note(by, tab, draw(st.integers(1, 20))))


def _deposit(draw, world, by):
    if not world.settled[by]:
        return
    settled, oid, amount = draw(st.sampled_from(world.settled[by]))
    added = amount - world.asked.get((by, oid), 0)
    if added > 0 or not draw(st.integers(0, 9)):  # else it would end the log
        world.entries[by].append(deposit(by, settled, max(1, added)))
        world.asked[by, oid] = max(amount, world.asked.get((by, oid), 0))


@st.composite
def worlds(draw, max_entries=14):
    """Up to so many entries in all, most of them in order, some of them nonsense."""
    world = World()
    world.entries[ISSUER].append(grant(ANN, draw(st.integers(1, 40)), no=1000))
    for number in range(draw(st.integers(0, max_entries))):
        _write(draw, world, number)
    return world


@st.composite
def forks(draw, world):
    """Branches that nobody cosigned: beginnings of logs that go on in another way."""
    made = []
    for number in range(draw(st.integers(1, 3))):
        owner = draw(st.sampled_from(PEOPLE))
        kept = draw(st.integers(0, len(world.entries[owner])))
        payee = next(other for other in PEOPLE if other is not owner)
        more = allot(owner, payee, draw(st.integers(1, 30)), no=2000 + number)
        made.append(branch(owner, *world.entries[owner][:kept], more, counts=False))
    return made
