"""Single ids in bytes, as log-probabilities are told: what tokenizers of each kind make of them."""

import pytest

from manyhands.models import BUILT_IN
from protocol.text import Tokenizer


def test_every_text_is_spelled_by_its_ids():
    tokenizer = Tokenizer.from_directory(BUILT_IN)

    for text in ("Once upon a time", "né 東京 🙂 \n\t x", "  two  spaces"):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert b"".join(map(tokenizer.spelled, ids)).decode() == text
    assert all(tokenizer.spelled(id) for id in range(tokenizer.vocab_size))


@pytest.mark.parametrize(
    ("raw", "spelled"), [("\u2581Hello", b" Hello"), ("<0xE6>", b"\xe6"), ("é", "é".encode())]
)
def test_sentencepiece_writes_spaces_and_bytes_in_its_own_way(raw, spelled):
    from tokenizers import Tokenizer as Fast
    from tokenizers import decoders, models

    fast = Fast(models.BPE({raw: 0}, []))
    fast.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])

    assert Tokenizer({"tokenizer.json": fast.to_str().encode()}).spelled(0) == spelled
