"""Governing models by command, without a network: each home's state is carried to the others."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from manyhands.cli import root
from manyhands.governing.gate import require_served, require_terms
from manyhands.governing.rules_file import read_rules, write_rules
from manyhands.home import Home, open_identity
from manyhands.licences import has_accepted
from manyhands.membership import enter, founder_key, keep_state, load_state
from manyhands.models import Model, find_model
from manyhands.party import Party, open_party
from protocol.clock import wall_ms
from protocol.errors import BadSignature, NotAccepted, NotPermitted, UsageError
from protocol.manifest import SIGNATURE
from protocol.membership.certificates import Certificate
from protocol.membership.rules import Channel, Rules
from tests.membership import HOUR_MS, WORKS
from tests.protocol.test_model_signature import GOLDEN, key_of, manifest

USE = "No spam."


class People:
    """A founder and two friends, each with a home in one swarm."""

    def __init__(self, directory: Path) -> None:
        self.bases = {name: directory / name for name in ("anna", "bert", "carl")}
        self.run("anna", "swarm", "create", "den", "--private", "--default")
        founder = self.home("anna")
        state, key = load_state(founder), founder_key(founder)
        for name in ("bert", "carl"):
            home = Home.at(self.bases[name])
            place = Home.at(home.root / "swarms" / "den")
            certificate = Certificate(
                peer=open_identity(place.client).public_key,
                roles=WORKS,
                issued_ms=wall_ms(),
                expires_ms=wall_ms() + HOUR_MS,
            )
            enter(place, state, {"client": certificate.seal(state.swarm_id, key).encode()})
            (home.root / "default-swarm").write_text("den\n")

    def home(self, name: str) -> Home:
        return Home(self.bases[name] / "swarms" / "den")

    def peer(self, name: str) -> str:
        return open_identity(self.home(name).client).peer_id

    def run(self, name: str, *arguments: str) -> Any:
        """What the command printed as JSON, or its text; everybody hears of it."""
        ended = self.invoke(name, *arguments)
        if ended.exception is not None:
            raise ended.exception
        for one in self.bases:
            for other in self.bases:
                if self.home(one).root.exists() and self.home(other).root.exists():
                    keep_state(self.home(other), load_state(self.home(one)))
        return json.loads(ended.stdout) if "--json" in arguments else ended.stdout

    def invoke(self, name: str, *arguments: str) -> Result:
        at = ["--home", str(self.bases[name])]
        return CliRunner().invoke(root, [*arguments, *at], standalone_mode=False)

    def govern(self, directory: Path, **more: str) -> None:
        file = directory / "rules.toml"
        file.write_text(rules_text(self, **more))
        self.run("anna", "swarm", "rules", str(file))

    def party(self, name: str) -> Party:
        return open_party(self.home(name), "client")


def rules_text(people: People, *, more: str = "", serves: str = '["stable"]') -> str:
    names = ", ".join(f'"{people.peer(name)}"' for name in people.bases)
    return f"""
serves = {serves}
{more}
[[release]]
models = "*"
channels = ["candidate", "stable"]
needs = 2
releasers = [{names}]

[advisories]
peers = ["{people.peer("carl")}"]
"""


@pytest.fixture
def people(tmp_path):
    return People(tmp_path)


def released(people: People, *names: str, channel: str = "stable") -> dict[str, Any]:
    said = {}
    for name in names:
        said = people.run(name, "models", "release", "tiny", "--channel", channel, "--json")
    return said


def served(people: People, **more: Any) -> list[Model]:
    home, party = people.home("bert"), people.party("bert")
    return require_served(home, party, [find_model("tiny")], **more)


def test_rules_are_read_as_they_are_written(people, tmp_path):
    file = tmp_path / "rules.toml"
    file.write_text(rules_text(people, more=f'asks_licence = true\nacceptable_use = "{USE}"'))
    rules = read_rules(file, 7)

    file.write_text("\n".join(write_rules(rules)))

    assert read_rules(file, 7) == rules
    assert [(rule.channel, rule.quorum.needs) for rule in rules.releases] == [
        (Channel.CANDIDATE, 2),
        (Channel.STABLE, 2),
    ]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("serves = [", "rules.toml"),
        ('serves = ["best"]', "channel"),
        ("oracle = true", "oracle"),
        ('asks_licence = "yes"', "true or false"),
        ('[[release]]\nmodels = "*"', "releasers is missing"),
        ('[[release]]\nmodels = "[a]"\nreleasers = []', "quorum"),
        ('[advisories]\npeers = ["nobody"]', "peer id"),
        ('trusted_keys = ["missing.pem"]', "missing.pem"),
        ("asks_signature = true", "nobody's signature"),
    ],
)
def test_rules_that_make_no_sense_are_refused_by_name(tmp_path, text, word):
    file = tmp_path / "rules.toml"
    file.write_text(text)

    with pytest.raises(UsageError, match=word) as refused:
        read_rules(file, 1)
    assert refused.value.hint


def test_two_releasers_of_three_let_a_model_in_from_machines_of_their_own(people, tmp_path):
    assert served(people)
    people.govern(tmp_path)
    with pytest.raises(NotPermitted, match="has not released") as refused:
        served(people)
    assert refused.value.exit_code == 6
    assert "manyhands models release tiny --channel stable --swarm den" in refused.value.hint

    assert released(people, "anna")["state"] == "release: 1 of 2 signatures"
    with pytest.raises(NotPermitted, match="1 of 2"):
        served(people)
    said = released(people, "carl")

    assert (said["stands"], len(said["signers"])) == (True, 2)
    assert served(people)
    rows = people.run("bert", "models", "releases", "--json")["releases"]
    assert [(row["model"], row["state"]) for row in rows] == [("tiny", "released")]


def test_a_model_is_promoted_and_withdrawn_by_as_many(people, tmp_path):
    people.govern(tmp_path)
    with pytest.raises(UsageError, match="not released in channel candidate"):
        people.run("anna", "models", "promote", "tiny")
    released(people, "anna", "bert", channel="candidate")
    people.run("bert", "models", "promote", "tiny")
    people.run("carl", "models", "promote", "tiny", "--notes", "as bert says")
    assert served(people)

    people.run("anna", "models", "withdraw", "tiny")
    assert served(people)
    people.run("bert", "models", "withdraw", "tiny")

    with pytest.raises(NotPermitted, match="but in candidate") as refused:
        served(people)
    assert "models promote tiny --from candidate --to stable" in refused.value.hint


def test_a_node_serves_a_revision_under_the_name_that_it_was_released_by(people, tmp_path):
    people.govern(tmp_path)
    for name in ("anna", "bert"):
        people.run(name, "models", "release", "tiny", "--name", "small-talk")

    assert [model.name for model in served(people)] == ["small-talk"]
    with pytest.raises(NotPermitted, match="released as small-talk"):
        served(people, name="other")


def test_who_is_named_by_no_rule_signs_nothing(people, tmp_path):
    people.govern(tmp_path)

    with pytest.raises(UsageError, match="no key of this home"):
        people.run("carl", "models", "release", "tiny", "--channel", "dev")
    with pytest.raises(UsageError, match="no key of this home"):
        advised(people, "bert", "stop")
    with pytest.raises(UsageError, match="only the founder"):
        people.run("bert", "swarm", "rules", str(tmp_path / "rules.toml"))


def advised(people: People, name: str, severity: str, *more: str) -> None:
    why = ("--reason", "it was changed", "--id", "a-1", *more)
    people.run(name, "models", "advise", "tiny", "--severity", severity, *why)


def test_an_advisory_is_published_sharpened_and_lifted(people, tmp_path, capsys):
    people.govern(tmp_path)
    released(people, "anna", "bert")
    advised(people, "carl", "flag")
    assert served(people)
    assert "a-1 (flag): it was changed" in capsys.readouterr().err
    advised(people, "carl", "stop")
    with pytest.raises(NotPermitted, match=r"a-1 \(stop\)"):
        served(people)

    people.run("carl", "models", "lift", "a-1")

    assert served(people)
    with pytest.raises(UsageError, match="no advisory a-2"):
        people.run("carl", "models", "lift", "a-2")


def test_terms_are_accepted_once_by_a_person_and_anew_when_they_change(people, tmp_path):
    people.govern(tmp_path, more=f'asks_licence = true\nacceptable_use = "{USE}"')
    released(people, "anna", "bert")
    with pytest.raises(
        NotAccepted, match=r"licence of tiny .* and the swarm's acceptable"
    ) as refused:
        served(people)
    assert refused.value.exit_code == 6
    assert "manyhands models accept" in refused.value.hint

    shown = people.run("bert", "models", "show", "tiny")
    assert USE in shown
    people.run("bert", "models", "accept", "tiny")
    assert served(people)
    people.govern(tmp_path, more='asks_licence = true\nacceptable_use = "Be kind."')

    with pytest.raises(NotAccepted, match=r"the swarm's acceptable use$"):
        served(people)
    assert served(people, accepts=True)
    assert served(people)


def test_a_swarm_that_asks_nothing_is_told_nothing(tmp_path):
    home = Home.at(tmp_path)
    manifest = find_model("tiny").manifest

    require_terms(home, Rules(), manifest, accepts=False)

    assert not has_accepted(home, manifest)


# --- what publishers sign -------------------------------------------------------------------------


def signed_model(directory: Path, name: str = "P-256", **changed: str) -> Model:
    """The model that the reference implementation signed, as far as a manifest needs it."""
    directory.mkdir()
    (directory / SIGNATURE).write_text(GOLDEN["keys"][name]["signature"])
    return replace(find_model("tiny"), directory=directory, manifest=manifest(**changed))


def test_what_a_publisher_signed_is_told_and_what_was_changed_since_is_refused(people, tmp_path):
    key = tmp_path / "key.pem"
    key.write_text(GOLDEN["keys"]["P-256"]["public_key"])
    home, party = people.home("bert"), people.party("bert")
    model = signed_model(tmp_path / "model")

    (unknown,) = require_served(home, party, [model])
    (trusted,) = require_served(home, party, [model], trusted_keys=[key])

    assert "nobody here trusts" in unknown.signature
    assert "is trusted" in trusted.signature
    changed = signed_model(tmp_path / "changed", **{"tokenizer.json": "[]"})
    with pytest.raises(BadSignature) as refused:
        require_served(home, party, [changed])
    assert refused.value.exit_code == 8


def test_a_swarm_may_serve_what_somebody_it_trusts_has_signed_alone(people, tmp_path):
    (tmp_path / "key.pem").write_text(GOLDEN["keys"]["P-384"]["public_key"])
    trusted = 'trusted_keys = ["key.pem"]\nasks_signature = true'
    (tmp_path / "rules.toml").write_text(trusted)
    people.run("anna", "swarm", "rules", str(tmp_path / "rules.toml"))
    home, party = people.home("bert"), people.party("bert")
    assert party.membership is not None
    assert party.membership.state.governance.rules.trusted == (key_of("P-384"),)

    good = signed_model(tmp_path / "good", "P-384")
    (served_one,) = require_served(home, party, [good])
    assert "is trusted" in served_one.signature
    for model in (find_model("tiny"), signed_model(tmp_path / "other")):
        with pytest.raises(NotPermitted, match="serves what somebody it trusts"):
            require_served(home, party, [model])
