"""An answer that had begun, as its client says, and shows no token in its commit."""

from protocol.codec import to_client_message, to_hop_bytes
from protocol.errors import PeerBusy
from protocol.messages import Close, Committed, Failure
from protocol.transport import decode_error
from tests.gossiping import until
from tests.node.test_unpaid import model, opened, priced  # noqa: F401 (fixtures)


async def test_room_that_was_had_by_a_word_goes_back_when_the_commit_does_not_bear_it_out(
    priced,  # noqa: F811
):
    sessions = priced.nodes[0].node.sessions
    async with priced.client() as client:
        first, _ = await opened(priced, client)
        assert isinstance(to_client_message(await first.receive()), Committed)
        taken = sessions.open_bytes
        sessions.reserved_bytes += taken
        held = sessions.reserved_bytes
        stream, _ = await opened(priced, client, has_begun=True)
        said = to_client_message(await stream.receive())
        await until(lambda: sessions.reserved_bytes == held, timeout_s=5)
        sessions.reserved_bytes -= taken
        first.send(to_hop_bytes(Close()))

        assert isinstance(said, Failure)
        error = decode_error(said.error, "")
        assert isinstance(error, PeerBusy)
        assert "no token yet" in str(error)
        assert len(sessions) == 1

        stream, _ = await opened(priced, client, has_begun=True)  # where there is room for anybody
        assert isinstance(to_client_message(await stream.receive()), Committed)
