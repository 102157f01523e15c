"""The zip of a bundle, read in memory and never unpacked to disk.

In: bytes from anybody. Out: its files, one at a time. Names beyond those that belong there, copies,
other compression, and directories that are not the last thing in the file are refused before
anything is inflated; what is inflated is counted, whatever the zip says it is.
"""

import io
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ledger.bundles import KEY_EVENTS, MAX_FILE_BYTES, NAMES
from ledger.errors import BadBundle, UnreadableBundle

_END = b"PK\x05\x06"  # of the end of a zip's directory, APPNOTE 4.3.16
_END_BYTES, _FAR_END_BYTES = 22, 20
_FAR_END = b"PK\x06\x07"  # and of its twin for huge ones, 4.3.15


def read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        hint = "manyhands ledger verify FILE, where FILE is a bundle that somebody sent"
        raise UnreadableBundle(f"cannot read {path}: {error.strerror}", hint=hint) from error
    if len(data) > MAX_FILE_BYTES:
        raise BadBundle(f"the file is larger than {MAX_FILE_BYTES // 2**20} MiB")
    return data


def unpacked(data: bytes) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
    """The zip, and its files by their names.

    Raises:
        BadBundle: it is none, or none of a bundle.
    """
    _check_directory(data)
    with reading():
        bundle = zipfile.ZipFile(io.BytesIO(data))
        infos = bundle.infolist()
        files = {info.filename: info for info in infos}
    if len(files) != len(infos) or not files.keys() <= {*NAMES, KEY_EVENTS}:
        raise BadBundle("it holds other files than a bundle does")
    return bundle, files


@contextmanager
def reading() -> Iterator[None]:
    """What a library says of a zip that is not as it should be."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError) as error:
        raise BadBundle(f"the zip is damaged: {error}") from error
    except (RuntimeError, UnicodeDecodeError) as error:  # encrypted, or names that are no text
        raise BadBundle(f"the zip cannot be read: {error}") from error


def _check_directory(data: bytes) -> None:
    """Look at the end of the zip before a library does, which reads as many names as it holds."""
    end = data[-_END_BYTES:]
    if len(end) < _END_BYTES or not end.startswith(_END):
        raise BadBundle("this is no bundle, or a part of one: a zip ends with its directory")
    n_files = int.from_bytes(end[10:12], "little")
    n_bytes = int.from_bytes(end[12:16], "little")
    if n_files > len(NAMES) + 1 or n_bytes > 4096 or end[20:22] != b"\0\0":
        raise BadBundle("it holds other files than a bundle does")
    if data[-_END_BYTES - _FAR_END_BYTES : -_END_BYTES].startswith(_FAR_END):
        raise BadBundle("a bundle is no zip64")


def opened(bundle: zipfile.ZipFile, info: zipfile.ZipInfo, most: int) -> IO[bytes]:
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
        raise BadBundle(f"{info.filename} is packed in another way than a bundle's files")
    if info.file_size > most:
        raise BadBundle(f"{info.filename} is larger than a bundle's may be")
    with reading():
        return bundle.open(info)


def inflated(bundle: zipfile.ZipFile, info: zipfile.ZipInfo, most: int) -> bytes:
    with opened(bundle, info, most) as file, reading():
        return file.read(most + 1)  # and never more than `file_size`, as the library reads it
