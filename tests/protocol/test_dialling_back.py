"""The question whether a node can be dialled, and its answer, as strangers send them."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.address import Endpoint
from protocol.canonical import encode
from protocol.dialling_back import MAX_TOOK_US, Answer, Outcome, Question, as_reason
from protocol.errors import ManyhandsError, PeerMisbehaved, UsageError

hosts = st.ip_addresses().map(str)
endpoints = st.builds(Endpoint, hosts, st.integers(0, 65535))


@given(st.integers(0, 65535))
def test_a_question_survives_its_bytes(port):
    assert Question.decode(Question(port).encode(), sender="") == Question(port)


@given(
    st.sampled_from(Outcome),
    st.none() | endpoints,
    st.integers(0, MAX_TOOK_US),
    st.text(max_size=300),
)
def test_an_answer_survives_its_bytes(outcome, seen, took_us, text):
    answer = Answer(outcome=outcome, seen=seen, took_us=took_us, reason=as_reason(text))

    assert Answer.decode(answer.encode(), sender="") == answer


@given(st.binary(max_size=80))
def test_junk_is_refused_as_one_of_our_errors(junk):
    for kind in (Question, Answer):
        with contextlib.suppress(ManyhandsError):
            kind.decode(junk, sender="")


@pytest.mark.parametrize(
    "fields",
    [
        [1, "reached", [], -1 & 2**62, ""],
        [1, "reached", ["203.0.113.5"], 0, ""],
        [1, "reached", ["not an address", 1], 0, ""],
        [1, "reached", ["203.0.113.5", 70_000], 0, ""],
        [1, "reached", ["203.0.113.5", True], 0, ""],
        [1, "reached", [], True, ""],
        [1, "reached", [], 0, "\x1b[31m"],
        [1, "reached", [], 0, "x" * 201],
        [1, "reached"],
        ["reached", [], 0, ""],
    ],
)
def test_an_answer_of_other_fields_is_refused(fields):
    with pytest.raises(PeerMisbehaved):
        Answer.decode(encode(fields), sender="")


@pytest.mark.parametrize("fields", [[1], [1, 65_536], [1, True], ["1", 1], [1, "31400"]])
def test_a_question_of_other_fields_is_refused(fields):
    with pytest.raises(PeerMisbehaved):
        Question.decode(encode(fields), sender="")


def test_what_a_later_version_says_is_passed_over():
    later = Answer.decode(encode([2, "reached by pigeon", [], 0, "", b"more"]), sender="")

    assert later.outcome is Outcome.DECLINED
    assert Question.decode(encode([2, 31400, "more"]), sender="") == Question(31400)


def test_an_endpoint_is_an_address_and_an_ipv4_one_is_never_spelled_as_ipv6():
    assert Endpoint("::ffff:203.0.113.5", 1) == Endpoint("203.0.113.5", 1)
    assert str(Endpoint("2001:DB8::1", 443)) == "[2001:db8::1]:443"
    for host, port in (("node.example", 1), ("", 1), ("203.0.113.5", 65_536), ("fe80::1%eth0", 1)):
        with pytest.raises(UsageError):
            Endpoint(host, port)
