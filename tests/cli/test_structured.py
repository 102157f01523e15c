"""The flags of `generate` that say what an answer has to be, and how likely it was."""

import json

import pytest

from tests.cli.command import assert_explained, manyhands
from tests.swarm.processes import swarm


def generate(here, home, *more: object):
    return here("generate", "tiny", "--prompt", "x", "--home", home, *more)


@pytest.mark.parametrize(
    "flags",
    [
        ("--json-object", "--regex=a"),
        ("--json-schema=no/such/file.json",),
        ("--regex=",),
        ("--logprobs=3",),
        ("--logprobs=21", "--json"),
        ("--json-object", "--ignore-eos"),
        ("--min-p=2",),
    ],
)
def test_flags_that_make_no_sense_are_the_callers_fault(tmp_path, here, flags):
    ended = generate(here, tmp_path, *flags)

    assert ended.code == 2
    assert "error: " in ended.err
    assert "Traceback" not in ended.err


def test_a_schema_too_large_is_refused_before_anybody_is_asked(tmp_path, here):
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps({"enum": ["x" * (1 << 20)]}))

    ended = generate(here, tmp_path, "--json-schema", schema)

    assert_explained(ended, 2, "64 KiB")


@pytest.mark.slow
@pytest.mark.swarm
def test_a_swarm_of_processes_answers_within_a_schema_and_tells_how_likely(tmp_path):
    schema, hostile = tmp_path / "schema.json", tmp_path / "hostile.json"
    schema.write_text('{"type":"array","items":{"enum":["tea","rain"]},"minItems":2,"maxItems":4}')
    hostile.write_text('{"type":"frob"}')
    with swarm(tmp_path / "swarm", "tiny", ["0:4", "4:8"]) as nodes:
        where = ("--join", nodes[0].address, "--home", tmp_path / "client", "--prompt", "Hi.")
        fine = ("--json-schema", schema, "--logprobs", 2, "--json", "--temperature", 1)

        ended = manyhands("generate", "tiny", *where, *fine)
        refused = manyhands("generate", "tiny", *where, "--json-schema", hostile)

    told = json.loads(ended.out)
    assert set(json.loads(told["text"])) <= {"tea", "rain"}
    assert told["finish_reason"] == "stop"
    assert len(told["logprobs"]) == len(told["token_ids"])
    assert all(len(each["top"]) == 2 and each["logprob"] <= 0 for each in told["logprobs"])
    assert_explained(refused, 2, "frob")
