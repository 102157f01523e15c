"""What an organisation rules for its gateway: classes of data, tiers, and who else may answer.

In: a TOML file, which the operator writes, and keys from the environment. Out: values, checked; a
mistake in the file is said with its place before anything listens. How a request is decided by them
is `deciding.py`'s; docs/gateway.md describes the file.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from manyhands.gateway.asked import Words
from manyhands.gateway.grants import DataClass
from manyhands.gateway.patterns import Pattern
from protocol.constraints import Group
from protocol.errors import ConfigError, ManyhandsError
from protocol.identity import PeerId, public_key_from_peer_id

AUTO = "manyhands/auto"
SWARM, UPSTREAM = "swarm", "upstream"

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
Groups = Annotated[list[Annotated[str, Field(min_length=1, max_length=4096)]], Field(max_length=64)]
Count = Annotated[int, Field(ge=0, lt=2**53)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]


class Ruled(BaseModel):
    """A table of the file: what it does not know, it refuses."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ClassRule(Ruled):
    """Where data of a class may be served. groups: as `--group` spells them; one is enough."""

    groups: Groups = []  # a group with its peers is long
    regions: Words = []

    @property
    def trusted(self) -> tuple[Group, ...]:
        return tuple(map(group_of, self.groups))

    @model_validator(mode="after")
    def _readable(self) -> Self:
        _ = self.trusted
        return self


class Upstream(Ruled):
    """Somebody else's OpenAI-style API. Prices: ncr for a million tokens, as budgets count them."""

    url: str
    model: Annotated[str, Field(min_length=1, max_length=256)]
    embeddings: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """What to ask for vectors there; without one it gets no texts for that. Those of two models
    cannot be compared: it has to be the model that the swarm has."""
    key_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    classes: list[Literal["public", "internal"]] = ["public"]
    prompt_price: Count = 0
    answer_price: Count = 0
    first_token_s: Seconds = 30.0
    timeout_s: Seconds = 600.0
    max_running: Annotated[int, Field(ge=1, le=10_000)] = 64
    region: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """Where it serves, as the operator knows; without one, it gets nothing that a region binds."""
    drop: Words = []
    """Fields of requests that this one does not take."""

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("an URL looks like https://api.example.com/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("an URL has no password and no query: the key comes by key_env")
        if parts.scheme == "http" and not _is_loopback(parts.hostname):
            raise ValueError("beyond this machine, prompts and keys go over https alone")
        return self

    def takes(self, data: DataClass) -> bool:
        return data.value in self.classes

    def key(self, environment: Mapping[str, str]) -> str:
        return environment.get(self.key_env, "") if self.key_env else ""


class Rule(Ruled):
    """Every condition that is named must hold; the first rule that holds decides."""

    name: Name
    then: Name
    """`swarm`, `upstream` (the first that takes the data), or an upstream's name."""
    prompt_tokens: Count | None = None
    answer_tokens: Count | None = None
    """At least so many, of the prompt, or that may be answered."""
    tools: bool | None = None
    structured: bool | None = None
    keywords: Words | None = None
    pattern: Annotated[str, Field(min_length=1, max_length=2000)] | None = None
    first_token_ms: Count | None = None
    running: Count | None = None
    """At least: the time to the first token lately; the answers that are being made."""
    unable: bool | None = None
    """The swarm's model cannot do what is asked: it has no tools, or no room for it."""
    not_ready: bool | None = None
    keys: Words | None = None

    @property
    def conditions(self) -> dict[str, object]:
        told = self.model_dump(exclude={"name", "then"}, exclude_none=True)
        return dict(told)

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.conditions:
            raise ValueError("a rule names at least one condition")
        if self.pattern is not None:
            Pattern.of(self.pattern)
        return self


class Auto(Ruled):
    """The model `manyhands/auto`. model: on the swarm. upstreams: in the order to try."""

    model: str = "default"
    upstreams: Annotated[list[Name], Field(min_length=1, max_length=16)]
    rules: Annotated[list[Rule], Field(max_length=256)] = []
    fall_back: bool = True
    """What the swarm fails to begin goes upstream, and the other way round."""


class Policy(Ruled):
    """Without a file: no upstreams, and restricted data may go nowhere."""

    classes: dict[Literal["internal", "restricted"], ClassRule] = {}
    upstreams: dict[Name, Upstream] = {}
    auto: Auto | None = None

    @classmethod
    def read(cls, path: Path, environment: Mapping[str, str] | None = None) -> Self:
        """
        Raises:
            ConfigError: what is wrong, and where.
        """
        hint = "docs/gateway.md describes the file"
        try:
            policy = cls.model_validate(tomllib.loads(path.read_text()))
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}", hint=hint) from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not TOML: {error}", hint=hint) from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise ConfigError(f"{path}: {where}: {first['msg']}", hint=hint) from error
        policy.require_keys(os.environ if environment is None else environment)
        return policy

    @model_validator(mode="after")
    def _whole(self) -> Self:
        restricted = self.classes.get("restricted")
        if restricted is not None and not restricted.groups:
            raise ValueError("classes.restricted names no trust group")
        if self.auto is not None:
            targets = {SWARM, UPSTREAM, *self.upstreams}
            for name in self.auto.upstreams:
                if name not in self.upstreams:
                    raise ValueError(f"auto.upstreams names {name}, which is not in upstreams")
            names = [rule.name for rule in self.auto.rules]
            if twice := next((n for n in names if names.count(n) > 1), None):
                raise ValueError(f"two rules are called {twice}")
            for rule in self.auto.rules:
                if rule.then not in targets:
                    raise ValueError(f"rule {rule.name} leads to {rule.then}, which is nowhere")
        return self

    def require_keys(self, environment: Mapping[str, str]) -> None:
        """
        Raises:
            ConfigError: a key that an upstream needs is not in the environment.
        """
        for name, upstream in self.upstreams.items():
            if upstream.key_env and not upstream.key(environment):
                raise ConfigError(
                    f"the key of upstream {name} is not in the environment",
                    hint=f"export {upstream.key_env}=… before the gateway starts",
                )

    def rule_of(self, data: DataClass) -> ClassRule | None:
        match data:
            case DataClass.INTERNAL:
                return self.classes.get("internal")
            case DataClass.RESTRICTED:
                return self.classes.get("restricted")
        return None


def group_of(text: str) -> Group:
    """`lab`, or `lab=PEER,PEER`."""
    name, equals, listed = text.partition("=")
    members = tuple(PeerId(each.strip()) for each in listed.split(",")) if equals else ()
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name):
        raise ValueError(f"not a group: {text[:80]!r}")
    try:
        for member in members:
            public_key_from_peer_id(member)
    except ManyhandsError as error:
        raise ValueError(f"group {name}: {error}") from error
    return Group(name, members)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
