"""A model's ends, as an auditor uses them."""

import warnings

import numpy as np

from manyhands.auditing.ends import Ends
from manyhands.models import find_model
from protocol.wire import FLOAT32, decode, encode


def test_rows_as_a_peer_sent_them_are_read_and_not_written():
    ends = Ends(find_model("tiny"), "float32")
    ids = [1, 2, 3]
    sent = encode(FLOAT32, ends.rows(ids))

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*not writable")  # torch says so once
        found = ends.logits(ids, decode(FLOAT32, sent, ends.hidden_size))

    assert found.shape[0] == len(ids)
    assert np.isfinite(found).all()
