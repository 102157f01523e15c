"""Text and token ids, on both sides of a session (DESIGN 5a.13).

`Tokenizer` reads a model's tokenizer files, by name and bytes, as they lie in a directory or came
from a peer. `Detokenizer` turns ids into text as they are drawn, never half a character.
`StopMatcher` finds stop strings across the borders of tokens. The last hop and the client run the
same code on the same ids, and so agree on the text and on the token that ends it. Only the
`tokenizers` library is needed, so a client starts fast.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Self

from tokenizers import AddedToken
from tokenizers import Tokenizer as FastTokenizer

from protocol.errors import BadModel, ManyhandsError, UsageError

TEXT_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
    "config.json",
)
CONTEXT_IDS = 8  # how much of the prompt a detokenizer needs to join its first word to it
MAX_CONTEXT_IDS = 64  # however mangled the text, the context stays short
LONG_CHARS = 4096  # from there on a text's ids are found without Python's lock: it takes longer
HEAD_CHARS, HEAD_CHARS_AN_ID = 16 << 10, 8  # of a text's beginning, read to see if it is too long
CUT_IDS = 512  # what a cut may add: the pieces of one word of a text, which are one id in the whole
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # how SentencePiece writes a byte
UNFINISHED = "\ufffd"  # what decoders make of half a character


class Tokenizer:
    """A model's tokenizer, chat template and stop ids.

    Raises:
        BadModel: tokenizer.json is missing, or a file is not what its name says.
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._config = _parse(files, "tokenizer_config.json")
        self._generation = _parse(files, "generation_config.json")
        self._model = _parse(files, "config.json")
        self._fast = _load(files)
        with _no_panic("the tokenizer's settings make no sense"):
            named = _parse(files, "special_tokens_map.json")
            self.special_tokens = self._read_special_tokens(named)
            self._add_missing_tokens()
            self.chat_template = self._read_chat_template(files)
            self.eos_ids = self._read_eos_ids()
        self.special_ids = frozenset(
            id for id, token in self._fast.get_added_tokens_decoder().items() if token.special
        )

    @classmethod
    def from_directory(cls, directory: Path) -> Self:
        """From a model's directory.

        Raises:
            BadModel: as above.
        """
        names = [name for name in TEXT_FILES if (directory / name).is_file()]
        return cls({name: (directory / name).read_bytes() for name in names})

    @property
    def vocab_size(self) -> int:
        return self._fast.get_vocab_size()

    @property
    def vocabulary(self) -> Mapping[str, int]:
        """Every token's id, added ones' too."""
        vocabulary: dict[str, int] = self._fast.get_vocab(with_added_tokens=True)
        return vocabulary

    def to_json(self) -> str:
        """All of it as one tokenizer.json, with the tokens that only the configuration names."""
        text: str = self._fast.to_str()
        return text

    @cached_property
    def added_ids(self) -> Mapping[str, int]:
        """Tokens beside the vocabulary, special or not, by what they stand for."""
        return {token.content: id for id, token in self._fast.get_added_tokens_decoder().items()}

    @property
    def generation_defaults(self) -> dict[str, Any]:
        """How the publisher wants the model sampled; empty means greedy."""
        names = ("temperature", "top_k", "top_p", "repetition_penalty")
        if not self._generation.get("do_sample"):
            return {}
        stated = {name: self._generation.get(name) for name in names}
        return {"temperature": 1.0} | {name: v for name, v in stated.items() if v is not None}

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`, with the special tokens that tokenizer.json puts around a prompt.

        `add_bos_token` in tokenizer_config.json is of no account beside it, as in transformers.

        Raises:
            UsageError: the text holds half characters, which no encoding of Unicode allows.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"the text is not valid Unicode: {error.reason}") from error
        with _no_panic("the model's tokenizer cannot take this text"):
            if len(text) < LONG_CHARS:
                found = self._fast.encode(text, add_special_tokens=add_special_tokens)
            else:  # the call for several, alone, lets other threads run meanwhile
                (found,) = self._fast.encode_batch_fast(
                    [text], add_special_tokens=add_special_tokens
                )
            ids: list[int] = found.ids
        return ids

    def at_least(self, text: str, most: int) -> int:
        """How many ids a text has at least, where its beginning shows that they are more than
        `most`; else 0. Megabytes cost no more to refuse than `most` ids cost to read.

        Raises:
            UsageError: as `encode`.
        """
        size = max(HEAD_CHARS, HEAD_CHARS_AN_ID * most)
        while size < len(text):
            if (n_ids := len(self.encode(text[:size])) - CUT_IDS) > most:
                return n_ids
            size *= 4  # few ids, so many spaces or the like
        return 0

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        with _no_panic("the model's tokenizer cannot spell these ids"):
            text: str = self._fast.decode(list(ids), skip_special_tokens=skip_special_tokens)
        return text

    def spelled(self, id: int) -> bytes:
        """What one id adds to a text, in bytes: half a character, too, where it is one."""
        raw: str = self._fast.id_to_token(id) or ""
        if id in self.special_ids:
            return raw.encode()
        if matched := _BYTE.fullmatch(raw):
            return bytes([int(matched[1], 16)])
        if "ByteLevel" in str(self._fast.decoder):
            letters = _letters_of_bytes()
            return b"".join(
                bytes([letters[char]]) if char in letters else char.encode() for char in raw
            )
        return raw.replace("\u2581", " ").encode()  # how SentencePiece writes a space

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """A conversation as the model's prompt. It brings its own special tokens; encode it
        without adding any. variables: what else the template is told, such as `enable_thinking`.

        Raises:
            UsageError: the model has no chat template, or it refuses these messages.
        """
        if self.chat_template is None:
            raise UsageError(
                "this model has no chat template", hint="send a prompt instead of messages"
            )
        from protocol.chat_template import render_chat  # jinja2 is for those who chat

        return render_chat(
            self.chat_template,
            messages,
            self.special_tokens,
            add_generation_prompt=add_generation_prompt,
            tools=tools,
            variables=variables,
        )

    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Token ids of a conversation, ready for the assistant's turn."""
        return self.encode(self.chat(messages), add_special_tokens=False)

    def _read_special_tokens(self, named: Mapping[str, Any]) -> dict[str, str]:
        """bos_token, eos_token and their kin; the configuration wins over the older file."""
        tokens: dict[str, str] = {}
        for source in (named, self._config):
            for name, value in source.items():
                content = value.get("content") if isinstance(value, dict) else value
                if name.endswith("_token") and isinstance(content, str):
                    tokens[name] = content
        return tokens

    def _add_missing_tokens(self) -> None:
        """Tokens that the configuration names and tokenizer.json has not."""
        vocabulary = self._fast.get_vocab(with_added_tokens=True)
        for field in (self._config.get("added_tokens_decoder") or {}).values():
            if isinstance(field, dict) and field.get("content") not in vocabulary:
                flags = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
                token = AddedToken(**{name: field[name] for name in flags if name in field})
                self._fast.add_tokens([token])
        missing = [t for t in self.special_tokens.values() if self._fast.token_to_id(t) is None]
        self._fast.add_special_tokens(missing)

    def _read_chat_template(self, files: Mapping[str, bytes]) -> str | None:
        if "chat_template.jinja" in files:
            return files["chat_template.jinja"].decode(errors="replace")
        template = self._config.get("chat_template")
        if isinstance(template, list):  # several, by name
            named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
            template = named.get("default")
        return template if isinstance(template, str) else None

    def _read_eos_ids(self) -> frozenset[int]:
        """Ids that end an answer: the generation config's, else the model's, else the token's."""
        for source in (self._generation, self._model, self._model.get("text_config") or {}):
            stated = source.get("eos_token_id")
            ids = stated if isinstance(stated, list) else [stated]
            if all(isinstance(id, int) for id in ids) and ids:
                return frozenset(ids)
        token = self._fast.token_to_id(self.special_tokens.get("eos_token", ""))
        return frozenset() if token is None else frozenset({token})


class Detokenizer:
    """Text as its ids arrive; the pieces and the last `flush` make the whole.

    Ids are decoded in the context of the few before them, since decoders treat the start of a
    text differently; of the prompt only that context counts. Special tokens have no text.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        spoken = [id for id in prompt_ids if id not in tokenizer.special_ids]
        size = CONTEXT_IDS
        while tokenizer.decode(spoken[-size:]).startswith(UNFINISHED) and size < MAX_CONTEXT_IDS:
            size += 1  # a context starts with a whole character
        self._ids = spoken[-size:]  # context, then what is not told yet
        self._context = len(self._ids)
        self._told = tokenizer.decode(self._ids)

    def add(self, id: int) -> str:
        """The text this id completes; "" while a character is unfinished."""
        if id in self._tokenizer.special_ids:
            return ""
        self._ids.append(id)
        text = self._tokenizer.decode(self._ids)
        if text.endswith(UNFINISHED):
            return ""
        return self._tell(text)

    def flush(self) -> str:
        """What is left at the end, replacement characters and all."""
        text = self._tokenizer.decode(self._ids)
        return self._tell(text) if len(self._ids) > self._context else ""

    def _tell(self, text: str) -> str:
        told = self._told
        if not text.startswith(told):  # the prompt ended in half a character, finished since
            told = told.rstrip(UNFINISHED)
        piece = text[len(told) :] if text.startswith(told) else self._untold()
        if piece:
            self._move_context()
        return piece

    def _move_context(self) -> None:
        """All is told: the ids just told are context enough, unless they start mid-character."""
        latest = self._ids[self._context :]
        told = self._tokenizer.decode(latest)
        if UNFINISHED in told and len(self._ids) < MAX_CONTEXT_IDS:
            latest, told = self._ids, self._tokenizer.decode(self._ids)
        self._ids, self._context, self._told = latest, len(latest), told

    def _untold(self) -> str:
        """New ids made a decoder change its mind about told text; what was told stands."""
        return self._tokenizer.decode(self._ids[self._context :])


class StopMatcher:
    """Finds the first stop string to be completed, however the text is cut into pieces.

    Text that may yet begin a stop is held back; a stop itself is never given out.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        if "" in self._stops:
            raise UsageError("a stop string cannot be empty")
        self._held = ""
        self.has_stopped = False

    def add(self, piece: str) -> str:
        """What of the text so far can be given out; sets `has_stopped` when a stop is complete."""
        if self.has_stopped:
            return ""
        text = self._held + piece
        ends = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if ends:
            self.has_stopped, self._held = True, ""
            return text[: min(ends)[1]]
        keep = max((overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """What was held back and begins no stop after all: the text has ended."""
        held, self._held = self._held, ""
        return held


def overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[len(text) - length :]):
            return length
    return 0


@cache
def _letters_of_bytes() -> dict[str, int]:
    """The letters by which byte-level tokenizers write bytes (Radford et al. 2019): printable
    ones stand for themselves, the others for letters from U+0100 on, in rising order."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (byte for byte in range(256) if byte not in plain)
    return {chr(byte): byte for byte in plain} | {
        chr(0x100 + place): byte for place, byte in enumerate(others)
    }


def _parse(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    if name not in files:
        return {}
    try:
        parsed = json.loads(files[name])
    except (ValueError, RecursionError) as error:
        raise BadModel(f"{name} is not valid JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise BadModel(f"{name} does not hold a JSON object")
    return parsed


@contextmanager
def _no_panic(complaint: str) -> Iterator[None]:
    """The library raises bare exceptions, and on some files it panics, which no `except
    Exception` catches: one model's file would end the process."""
    try:
        yield
    except ManyhandsError:
        raise
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise BadModel(f"{complaint}: {error}") from error
        raise


def _load(files: Mapping[str, bytes]) -> FastTokenizer:
    if "tokenizer.json" not in files:
        raise BadModel(
            "the model has no tokenizer.json",
            hint="convert its tokenizer once: AutoTokenizer.from_pretrained(d).save_pretrained(d)",
        )
    with _no_panic("tokenizer.json describes no tokenizer"):
        fast = FastTokenizer.from_buffer(files["tokenizer.json"])
    fast.no_truncation()
    fast.no_padding()
    return fast
