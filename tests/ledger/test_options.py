"""Accounts that people type: credit for a key that nobody has would be lost."""

import click
import pytest

from ledger.key_events import incept
from ledger.lines import peer_name
from ledger.options import AccountType, OwnerType
from protocol.signing import SigningKey
from tests.ledger.parties import PROVIDER, SWARM

NAME = peer_name(PROVIDER.public_key)


def taken(kind: click.ParamType, text: str) -> bool:
    try:
        return bool(kind.convert(text, None, None))
    except click.BadParameter:
        return False


def test_a_key_is_taken_by_its_peer_id_and_in_hexadecimal():
    for key in (SigningKey.generate() for _ in range(50)):
        for text in (peer_name(key.public_key), key.public_key.hex()):
            assert OwnerType().convert(text, None, None) == key.public_key


def test_nearly_every_mistake_in_typing_is_found():
    letters = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
    typed = [
        NAME[:place] + letters[letters.index(NAME[place]) - 1] + NAME[place + 1 :]
        for place in range(12, len(NAME))
    ]

    assert sum(taken(OwnerType(), text) for text in typed) <= len(typed) / 5
    assert not taken(OwnerType(), NAME[:-1])


def test_the_number_of_an_account_above_keys_is_no_key_to_give_credit_to():
    keys = [SigningKey.from_seed(bytes([n]) * 32) for n in range(1, 41)]
    accounts = [incept(key, keys[0].public_key, SWARM)[0] for key in keys]

    refused = [account for account in accounts if not taken(OwnerType(), account.hex())]

    assert len(refused) >= 0.8 * len(accounts)
    with pytest.raises(click.BadParameter, match="above keys"):
        OwnerType().convert(next(each for each in refused if can_be(each)).hex(), None, None)


def can_be(account: bytes) -> bool:
    """Whether only its being no key speaks against it."""
    return taken(AccountType(), account.hex())
