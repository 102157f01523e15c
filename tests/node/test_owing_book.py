"""What a node keeps of the tallies that peers show it costs it little, whatever they show."""

from ledger.log import Ledger
from ledger.tallies import Tallies
from ledger.tally import Tally
from ledger.writer import LedgerWriter
from node.owing import OwingBook
from protocol.identity import Identity, peer_id_from_public_key
from protocol.owing import Showing
from protocol.signing import SigningKey
from tests.ledger.parties import CLIENT, PROVIDER, SWARM


class Counted(Tallies):
    n_looks = 0

    def make_room(self, own, node_of):
        self.n_looks += 1
        return super().make_room(own, node_of)


async def test_44_room_for_tallies_is_looked_for_once_and_not_again_at_once_where_there_is_none(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("ledger.tallies.MAX_OTHERS", 0)
    others = [SigningKey.from_seed(bytes([n]) * 32) for n in range(80, 84)]
    shown = Showing(
        tallies=tuple(
            Tally(
                payer=CLIENT.public_key,
                payee=other.public_key,
                served=5,
                settled=0,
                issued_ms=1,
            )
            .seal(SWARM, CLIENT, other)
            .encode()
            for other in others
        )
    ).encode()
    books = LedgerWriter(lambda: Ledger.open(tmp_path, PROVIDER, SWARM))
    book = OwingBook(Identity(PROVIDER), SWARM, books, None)
    book.load()
    book.close()
    book._tallies = tallies = Counted.open(tmp_path, SWARM, book.debts.ours)

    for _ in range(3):
        await book.handle(peer_id_from_public_key(CLIENT.public_key), shown)

    assert tallies.n_looks == 1
    book.close()
    books.close()
