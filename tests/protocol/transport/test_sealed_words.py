"""What members of a swarm say on a local network: nobody else reads it, or says it."""

from hypothesis import given
from hypothesis import strategies as st

from protocol.address import Address
from protocol.transport.sealed_words import MAX_TOLD, MAX_VALUE_BYTES, SealedWords
from tests.announcing import peer_of

OURS, THEIRS = SealedWords(bytes(32)), SealedWords(b"\x01" + bytes(31))
ADDRESSES = [Address(f"192.168.1.{n}", 31400, peer_of(n)) for n in range(1, 10)]


def encoded(words: SealedWords) -> list[tuple[bytes, bytes | None]]:
    return [(name.encode(), value) for name, value in words.tell(ADDRESSES).items()]


def test_members_read_what_members_tell():
    assert OURS.read(encoded(OURS)) == ADDRESSES[:MAX_TOLD]


def test_who_does_not_know_the_swarm_reads_nothing_and_leads_nobody_anywhere():
    assert THEIRS.type != OURS.type
    assert THEIRS.read(encoded(OURS)) == []
    assert OURS.read(encoded(THEIRS)) == []
    plain = str(ADDRESSES[0]).encode()
    assert OURS.read([(b"mh0", plain), (b"dnsaddr", plain)]) == []
    assert peer_of(1).encode() not in b"".join(value or b"" for _, value in encoded(OURS))


def test_the_longest_address_fits_a_string_of_a_record_and_the_service_a_name():
    longest = Address("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", 65535, peer_of(1))

    [value] = SealedWords(bytes(32)).tell([longest]).values()

    assert len(value) <= MAX_VALUE_BYTES
    assert len(OURS.type.split(".")[0].removeprefix("_")) <= 15


@given(st.lists(st.tuples(st.just(b"mh0"), st.none() | st.binary(max_size=300))))
def test_no_bytes_on_the_network_do_harm(answer):
    assert OURS.read(answer) == []
