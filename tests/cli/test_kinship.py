"""The paper that a home's node and clients stand for each other by, and what goes with it."""

import pytest

from ledger.tallies import Tallies
from ledger.tally import Kin, Tally, open_kin, open_tally
from manyhands.home import Home, open_identity
from manyhands.kinship import FILE_NAME, shown_to_creditors
from protocol.key_files import rewrite_key
from protocol.signing import OPEN_SWARM_ID, Envelope, SigningKey


@pytest.fixture
def home(tmp_path):
    return Home.at(tmp_path)


def test_it_is_made_once_by_whoever_can_read_both_keys(home):
    client = open_identity(home.client)
    assert shown_to_creditors(home, client, OPEN_SWARM_ID).kin == b"", "there is no node yet"
    node = open_identity(home.node)

    first = shown_to_creditors(home, client, OPEN_SWARM_ID)
    rewrite_key(home.node / "identity.key", node.key, b"a passphrase")
    again = shown_to_creditors(home, client, OPEN_SWARM_ID)

    kin = open_kin(Envelope.decode(first.kin), OPEN_SWARM_ID)
    assert (kin.node, kin.client) == (node.public_key, client.public_key)
    assert again == first


def test_a_node_whose_key_is_encrypted_and_a_paper_that_is_damaged_show_nothing(home):
    client, node = open_identity(home.client), open_identity(home.node)
    rewrite_key(home.node / "identity.key", node.key, b"a passphrase")
    assert shown_to_creditors(home, client, OPEN_SWARM_ID).kin == b""

    (home.root / FILE_NAME).write_bytes(b"\xff junk")
    assert shown_to_creditors(home, client, OPEN_SWARM_ID).kin == b""


def test_a_paper_of_another_client_is_made_anew(home):
    client, node = open_identity(home.client), open_identity(home.node)
    other = SigningKey.generate()
    stale = Kin(node=node.public_key, client=other.public_key, issued_ms=0)
    (home.root / FILE_NAME).write_text(stale.seal(OPEN_SWARM_ID, node.key, other).encode().hex())

    kin = open_kin(
        Envelope.decode(shown_to_creditors(home, client, OPEN_SWARM_ID).kin), OPEN_SWARM_ID
    )
    assert kin.client == client.public_key


def test_what_others_signed_that_the_node_did_goes_with_it(home):
    client, node, payer = (
        open_identity(home.client),
        open_identity(home.node),
        SigningKey.generate(),
    )
    said = Tally(payer=payer.public_key, payee=node.public_key, served=70, settled=0, issued_ms=0)
    with Tallies.open(home.node, OPEN_SWARM_ID) as tallies:
        tallies.keep(said.seal(OPEN_SWARM_ID, node.key, payer))
        tallies.keep(said.seal(OPEN_SWARM_ID, node.key))

    (told,) = shown_to_creditors(home, client, OPEN_SWARM_ID).tallies

    assert open_tally(Envelope.decode(told), OPEN_SWARM_ID) == (said, True)
