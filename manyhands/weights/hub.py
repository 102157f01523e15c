"""One model on a hub that speaks the Hugging Face protocol: what it has, and ranges of its files.

In: a name and a revision. Out: metadata, small files, and runs of bytes of large ones, or typed
errors that say what a person can do. Names, tokens, proxies, HF_ENDPOINT and HF_HUB_OFFLINE are
the huggingface_hub library's; a range is one request of ours on its session. Trying again is
left to `download.py`: whatever passes raises `Stumbled`.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # exported lazily
    build_hf_headers,
    get_session,
    hf_raise_for_status,
)

from protocol.errors import (
    BadModel,
    HubRefused,
    HubUnreachable,
    IntegrityError,
    ManyhandsError,
    NoSuchModel,
)
from protocol.tensor_table import TensorEntry, header_bytes, parse_table

CONNECT_S, STALL_S = 5.0, 20.0
METADATA_TRIES = 2
HEADER_BYTES = 2**17  # asked for at first: most headers are shorter
PASSING = (408, 425, 429, 500, 502, 503, 504)  # worth another try
CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class Stumbled(Exception):
    """A transfer that may go on where it stopped; `wait_s` is what the hub asked for."""

    def __init__(self, why: str, wait_s: float = 0.0) -> None:
        super().__init__(why)
        self.wait_s = wait_s


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file on the hub; `sha256` is stated for large ones."""

    n_bytes: int
    sha256: bytes | None


@dataclass(frozen=True, slots=True)
class Published:
    """A model at one commit. Files in folders are left out: no model of ours is made of them."""

    commit: str
    licence: str
    files: Mapping[str, RemoteFile]


@dataclass(slots=True)
class Hub:
    """`ORG/NAME` at a revision, which `look` pins to a commit."""

    name: str
    revision: str = "main"
    stall_s: float = STALL_S
    endpoint: str = field(default_factory=lambda: constants.ENDPOINT)
    _etags: dict[str, str] = field(default_factory=dict)

    def look(self) -> Published:
        """What the hub has under this name now.

        Raises:
            BadModel: no such model or revision. HubRefused: it asks who you are.
            HubUnreachable: no answer.
        """
        try:
            with self._translated():
                info = HfApi(self.endpoint).model_info(
                    self.name, revision=self.revision, files_metadata=True, timeout=self.stall_s
                )
        except Stumbled as error:
            raise self._unreachable(str(error)) from error
        self.revision = str(info.sha or self.revision)
        card: Any = info.card_data or {}
        licence = card.get("license_name") or card.get("license") or ""
        if licence == "other" or not isinstance(licence, str):
            licence = str(card.get("license_name") or "other")
        files = {
            sibling.rfilename: RemoteFile(
                int(sibling.lfs.size if sibling.lfs else sibling.size or 0),
                bytes.fromhex(sibling.lfs.sha256) if sibling.lfs else None,
            )
            for sibling in info.siblings or ()
            if "/" not in sibling.rfilename and "\\" not in sibling.rfilename
        }
        return Published(self.revision, licence, files)

    def read(self, file: str, start: int, stop: int, n_bytes: int) -> bytes:
        """A short run of bytes, tried again when the hub stumbles."""
        for left in reversed(range(METADATA_TRIES)):
            try:
                return b"".join(self.stream(file, start, stop, n_bytes))
            except Stumbled as error:
                if not left:
                    raise self._unreachable(str(error)) from error
        raise AssertionError("unreachable")

    def table(self, file: str, n_bytes: int) -> dict[str, TensorEntry]:
        """The tensors of a weights file, from its header alone.

        Raises:
            BadModel: it is no safetensors file.
        """
        begin = self.read(file, 0, min(HEADER_BYTES, n_bytes), n_bytes)
        stop = 8 + header_bytes(file, n_bytes, begin[:8])
        if stop > len(begin):
            begin += self.read(file, len(begin), stop, n_bytes)
        return parse_table(file, n_bytes, begin[8:stop])

    def stream(self, file: str, start: int, stop: int, n_bytes: int) -> Iterator[bytes]:
        """Bytes `[start, stop)` of a file of `n_bytes`, as they come.

        Raises:
            Stumbled: it was cut, or no byte came for `stall_s`.
            ManyhandsError: another try would end alike.
        """
        if start >= stop:
            return
        headers = build_hf_headers() | {
            "Range": f"bytes={start}-{stop - 1}",
            "Accept-Encoding": "identity",
        }
        if etag := self._etags.get(file):
            headers["If-Range"] = etag  # a file that was replaced must not be mixed with its heir
        url = hf_hub_url(self.name, file, revision=self.revision, endpoint=self.endpoint)
        limit = httpx2.Timeout(self.stall_s, connect=min(CONNECT_S, self.stall_s))
        with (
            self._translated(file),
            get_session().stream("GET", url, headers=headers, timeout=limit) as answer,
        ):
            hf_raise_for_status(answer)
            yield from self._body(answer, file, start, stop, n_bytes)

    def _body(
        self, answer: httpx2.Response, file: str, start: int, stop: int, n_bytes: int
    ) -> Iterator[bytes]:
        skip = self._begins_at(answer, file, start, n_bytes)
        if strong := answer.headers.get("etag", ""):
            self._etags[file] = "" if strong.startswith("W/") else strong
        left = stop - start
        for data in answer.iter_raw():
            if skip:
                skip, data = max(0, skip - len(data)), data[skip:]
            if data:
                yield data[:left]
                left -= len(data[:left])
            if not left:
                return
        raise Stumbled("the connection was cut")

    def _begins_at(self, answer: httpx2.Response, file: str, start: int, n_bytes: int) -> int:
        """How many bytes come before the first one that was asked for."""
        if answer.status_code == 206:
            found = CONTENT_RANGE.fullmatch(answer.headers.get("content-range", ""))
            if found and (int(found[1]), int(found[3])) == (start, n_bytes):
                return 0
            raise IntegrityError(
                f"the hub answers another range of {file} than it was asked for",
                hint="try again, or another HF_ENDPOINT",
            )
        length = answer.headers.get("content-length", "")
        if length and int(length) != n_bytes:
            raise IntegrityError(
                f"{file} has {length} bytes on the hub, which says that it has {n_bytes}",
                hint="try again: it may have been replaced just now",
            )
        self._etags.pop(file, None)
        return start  # a server without ranges, or a file that was replaced

    @contextmanager
    def _translated(self, file: str = "") -> Iterator[None]:
        try:
            yield
        except OfflineModeIsEnabled as error:
            raise HubUnreachable(
                f"{self.name} is not here, and HF_HUB_OFFLINE forbids asking for it",
                hint="unset HF_HUB_OFFLINE, or join peers that have it: --join ADDR",
            ) from error
        except HfHubHTTPError as error:
            raise self._status(error, file) from error
        except HFValidationError as error:
            raise NoSuchModel(f"{self.name} is no name of a model", hint="ORG/NAME") from error
        except httpx2.TimeoutException as error:
            raise Stumbled(f"no byte for {self.stall_s:g} s") from error
        except httpx2.HTTPError as error:
            raise Stumbled(str(error) or type(error).__name__) from error
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise IntegrityError(
                f"what the hub says of {self.name} makes no sense: {error}",
                hint=f"is {self.endpoint} a hub? see HF_ENDPOINT",
            ) from error

    def _status(self, error: HfHubHTTPError, file: str) -> Exception:
        what = f"{file} of {self.name}" if file else self.name
        status = error.response.status_code
        if status in PASSING:
            said = error.response.headers.get("retry-after", "")
            return Stumbled(f"the hub answered {status}", float(said) if said.isdigit() else 0.0)
        if isinstance(error, GatedRepoError) or status == 403:
            return HubRefused(
                f"the publisher of {self.name} lets in who accepted its terms",
                hint=f"accept them at {self.endpoint}/{self.name}, then: hf auth login",
            )
        if isinstance(error, RepositoryNotFoundError) and status == 404:
            return NoSuchModel(
                f"the hub has no model {self.name}", hint="check the name; it is ORG/NAME"
            )
        if isinstance(error, RepositoryNotFoundError) or status == 401:
            return HubRefused(
                f"the hub has no model {self.name}, or hides it from those it does not know",
                hint="check the name; if it is private or gated: hf auth login",
            )
        if isinstance(error, RevisionNotFoundError):
            return BadModel(f"{self.name} has no revision {self.revision}", hint="ORG/NAME@main")
        if status == 416:
            return IntegrityError(
                f"{file} is shorter on the hub than the hub says", hint="try again later"
            )
        if status == 404:
            return BadModel(f"the hub lacks {what}", hint="check the name and the revision")
        return HubUnreachable(
            f"the hub answers {status} when asked for {what}", hint="try again later"
        )

    def _unreachable(self, why: str) -> ManyhandsError:
        return HubUnreachable(
            f"{self.name} cannot be fetched from {self.endpoint}: {why}",
            hint="check the connection and try again: what is here is kept",
        )
