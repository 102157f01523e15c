"""The vectors of what parties tell each other, read as the specification says and by nothing else.

No class of ours takes part: CBOR, hashes and the recursion of RFC 9162 are all it takes.
"""

import json
from base64 import b64decode
from hashlib import sha256
from hmac import digest
from pathlib import Path
from struct import unpack

import cbor2

FILE = Path(__file__).parents[1] / "golden" / "ledger.json"
GOLDEN = {name: bytes.fromhex(value) for name, value in json.loads(FILE.read_text()).items()}


def read(name):
    """Deterministic: encoding it again gives the same bytes."""
    fields = cbor2.loads(GOLDEN[name])
    assert cbor2.dumps(fields, canonical=True) == GOLDEN[name]
    return fields


def node(left, right):
    return sha256(b"\1" + left + right).digest()


def leaf_hash(leaf):
    return sha256(b"\0" + leaf).digest()


def led_to(leaf, index, size, path):
    """Section 2.1.3 of RFC 9162, from the leaf up: the root, and that over the leaves before it."""
    if size == 1:
        assert path == []
        return leaf, None
    half = 1 << (size - 1).bit_length() - 1
    *below, last = path
    if index < half:
        root, before = led_to(leaf, index, half, below)
        return node(root, last), before
    root, before = led_to(leaf, index - half, size - half, below)
    return node(last, root), last if before is None else node(last, before)


def head_of(note):
    origin, size, root, empty, *lines = note.decode().split("\n")
    assert origin.endswith("/spend")
    assert empty == ""
    assert len(lines) == 1 + 3 + 1  # the log's, three witnesses', and the end
    return int(size), b64decode(root)


def framed(name):
    data, parts = GOLDEN[name], []
    while data:
        (n,) = unpack(">I", data[:4])
        parts, data = [*parts, data[4 : 4 + n]], data[4 + n :]
    return parts


def test_what_is_published_of_a_log_is_frames_and_a_part_is_shown_to_be_its_beginning():
    head, *leaves = framed("spend_published")
    account, note, start = cbor2.loads(head)
    part, *some = framed("spend_published_part")
    account_too, note_too, start_too, path = cbor2.loads(part)

    assert (account, note) == (account_too, note_too)
    assert (start, len(leaves), start_too, len(some)) == (3, 2, 1, 2)
    for place, leaf in enumerate((*some, *leaves), 1):
        assert cbor2.loads(leaf)[:2] == [1, place]
    size, root = head_of(note)
    assert (size, led_to(leaf_hash(some[-1]), 2, size, path)[0]) == (5, root)
    assert read("spend_known") == [3, False]


def test_news_are_heads_and_forks_with_where_a_log_is_cut():
    account, path = read("spend_wanted")
    whose, number, is_all, heads, forked = read("spend_news")
    size, root = head_of(cbor2.loads(framed("spend_published")[0])[1])

    assert path == "tile/entries/000.p/5"
    assert read("spend_since") == [whose, number]
    assert (is_all, heads) == (True, [[account, size, root]])
    assert forked == [[forked[0][0], None], [account, 3]]


def test_where_two_versions_part_is_seen_from_what_lies_to_the_left_in_both():
    version, account, index, *sides = read("parting")

    roots = [(*head_of(note), led_to(leaf, index, 5, path)) for note, leaf, path in sides]
    assert (version, len(account), index) == (1, 32, 3)
    assert all((size, top) == (5, reached) for size, top, (reached, _) in roots)
    assert sides[0][1] != sides[1][1]
    assert roots[0][2][1] == roots[1][2][1]
    _, *some = framed("spend_published_part")
    first = cbor2.loads(some[0])[2]  # the hash of the leaf before
    assert node(node(first, leaf_hash(some[0])), leaf_hash(some[1])) == roots[0][2][1]


def test_what_is_owed_is_told_with_envelopes():
    version, kin, tallies = read("owing_shown")
    told, owed, credit, tally, others = read("owing_told")

    assert (version, told, owed, credit) == (1, 1, 180, 900)
    assert (len(tallies), tallies) == (1, others)
    kinds = [cbor2.loads(each)[0] for each in (kin, tally, *tallies)]
    assert kinds == ["mh/kin/1", "mh/tally/1", "mh/tally/1"]
    assert [len(cbor2.loads(each)[2]) for each in (kin, tally, *tallies)] == [2, 1, 2]


def test_faults_are_asked_for_by_what_is_known_and_told_in_envelopes():
    version, known, told = read("faults_asked")

    assert (version, known) == (1, [bytes([7]) * 8, bytes([9]) * 8])
    assert read("faults_told") == [1, told]
    assert told == [GOLDEN["fault_double_seq"]]


def test_an_opened_window_leads_to_what_the_statement_committed_to():
    asked = read("fingerprints_asked")
    version, statement, start, stop, root, shown = read("fingerprints_opened")
    salt = bytes(range(32))

    ((index, window, path),) = shown
    entry = leaf_hash(digest(salt, window, "sha256"))
    reached = node(path[0], entry)  # the second of two windows: 5 to 32, and 32 to 41
    at = start.to_bytes(8, "big") + stop.to_bytes(8, "big")
    fp_root = sha256(b"manyhands-fp-root-v1" + at + root).digest()
    stated = cbor2.loads(cbor2.loads(statement)[1])
    assert (version, asked[0], asked[2], index, start, stop) == (1, 1, [1], 1, 5, 41)
    assert reached == root
    assert stated[9] == fp_root
    assert asked[1] == stated[2]
    fields = cbor2.loads(window)
    assert (fields[:2], len(fields[2]), fields[3:]) == ([1, 32], 9 * 32, [0, b""])


def test_rows_that_are_shown_lead_to_the_root_that_both_ends_of_a_link_signed():
    asked, shown = read("sent_rows_asked"), GOLDEN["sent_rows_shown"]
    row_bytes, start, length = unpack("<IQQ", shown[:20])
    rows, salt = shown[20:], bytes(range(32))

    root = digest(salt, b"manyhands-rows-v1" + bytes(8), "sha256")
    for at in (0, row_bytes):
        root = sha256(root + sha256(rows[at : at + row_bytes]).digest()).digest()

    assert asked == [1, read("fingerprints_asked")[1], 0]
    assert (row_bytes, start, length, len(rows)) == (3, 0, 5, 12)
    assert root == GOLDEN["sent_rows_root"]
