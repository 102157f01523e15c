"""Which account the clients of a home pay from, where that is not their own.

In: a home of a swarm. Out: an account, kept as one line in `client/`, by its peer id.
"""

from manyhands.home import Home
from manyhands.private_files import write_whole
from protocol.errors import ConfigError, UsageError
from protocol.identity import PeerId, peer_id_from_public_key, public_key_from_peer_id

FILE_NAME = "pays-from"


def read_payer(place: Home) -> bytes | None:
    """None: their own credit pays.

    Raises:
        ConfigError: the file cannot be read, or names no account.
    """
    path = place.client / FILE_NAME
    try:
        text = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    try:
        return public_key_from_peer_id(PeerId(text))
    except UsageError as error:
        raise ConfigError(
            f"{path} names no account: {error}", hint="manyhands ledger keys pay-from own"
        ) from error


def write_payer(place: Home, account: bytes | None) -> None:
    """
    Raises:
        ConfigError: it cannot be written.
    """
    path = place.client / FILE_NAME
    if account is not None:
        write_whole(path, f"{peer_id_from_public_key(account)}\n".encode())
        return
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot remove {path}: {error.strerror}") from error
