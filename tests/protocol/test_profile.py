"""Execution profiles: what peers compare, and what a receipt says was run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import UsageError
from protocol.profile import ITEM_BYTES, WIRES, Execution, Profile

profiles = st.builds(
    Profile,
    dtype=st.sampled_from(sorted(ITEM_BYTES)),
    quantization=st.from_regex(r"[a-z0-9][a-z0-9.-]{0,31}", fullmatch=True),
    wire=st.sampled_from(WIRES),
)


@given(profiles, st.text("abc/.0 +", max_size=40))
def test_a_profile_and_an_execution_survive_their_spelling(profile, engine):
    execution = Execution(profile, engine.strip())

    assert Profile.parse(str(profile)) == profile
    assert Execution.parse(str(execution)) == execution


def test_rows_travel_as_they_are_computed_unless_something_else_is_said():
    assert str(Profile.parse("float32/none")) == "float32/none/float32"
    assert str(Profile.of("bfloat16", "nf4")) == "bfloat16/nf4/bfloat16"


@pytest.mark.parametrize(
    "text",
    ["", "float32", "float64/none", "float32/none/float8", "float32//float32", "a/b/c/d",
     "float32/NF4/float32", "bfloat16/../bfloat16", "float32/none/float32 x"],
)  # fmt: skip
def test_what_is_no_profile_is_refused(text):
    with pytest.raises(UsageError):
        Profile.parse(text)
