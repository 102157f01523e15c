"""What rows cost on the wire: bytes, time and rounding of each format, and whether packing pays.

Hidden states as a prompt's chunk of 256 tokens leaves the middle of a model: of the built-in one,
which is trained, and of a random Llama 12 x 768. Formats: microseconds per row to write and to
read, and how far a chain of three spans with that wire is from one that computes in float32 and
rounds nothing: relative error of logits, and greedy tokens equal. Packing: the ratio, MB/s, and
the link below which it pays (both ends' time against the bytes saved), for our codec and for what
else is installed (zstandard, lz4). Seconds are of this thread. Frames: what decoded rows carry with
them. `--model DIR` looks at one checkpoint alone, `--families` at a small random one of each
family, whose logits are flat and whose tokens therefore change sooner than a trained model's.
Run: python benchmarks/wire.py [--quick] [--model DIR | --families]
"""

import argparse
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import torch

from manyhands.models import BUILT_IN
from node.rows import from_wire, to_wire
from protocol.codec import data_bytes
from protocol.frames import Frame, RowGroup
from protocol.messages import SessionId
from protocol.packing import pack, unpack
from protocol.wire import FORMATS, WireFormat

CPU = torch.device("cpu")
N_ROWS = 256
Bytes = bytes | memoryview


def timed(call: Callable[[], Any], rounds: int) -> tuple[Any, float]:
    """What it gives, and the least seconds it took."""
    best = float("inf")
    for _ in range(rounds):
        began = time.thread_time()
        result = call()
        best = min(best, time.thread_time() - began)
    return result, best


def load(directory: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


def prompt_of(model: Any, directory: Path) -> torch.Tensor:
    """English where there is a tokenizer for it, anything for a random model."""
    if not (directory / "tokenizer_config.json").exists():
        n_ids = min(16_000, model.config.get_text_config().vocab_size)
        return torch.randint(3, n_ids, (1, N_ROWS), generator=torch.Generator().manual_seed(1))
    from tokenizers import Tokenizer

    text = (Path(__file__).parents[1] / "ARCHITECTURE.md").read_text()
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    return torch.tensor([tokenizer.encode(text).ids[:N_ROWS]])


def blocks_of(model: Any) -> Any:
    from node.engine.pruning import find_blocks

    owner, attribute = find_blocks(model)
    return getattr(owner, attribute)


class RoundedAtBorders:
    """The model as a chain of three spans computes it, its rows rounded by a wire format."""

    def __init__(self, model: Any, wire: WireFormat) -> None:
        blocks = blocks_of(model)
        borders = (len(blocks) // 3 - 1, 2 * len(blocks) // 3 - 1)
        self._hooks = [
            blocks[at].register_forward_hook(lambda _m, _a, out: self._round(wire, out))
            for at in borders
        ]

    @staticmethod
    def _round(wire: WireFormat, out: Any) -> Any:
        hidden = out[0] if isinstance(out, tuple) else out
        flat = hidden.reshape(-1, hidden.shape[-1])
        back = from_wire(wire, to_wire(wire, flat), flat.shape[1], hidden.dtype, CPU)
        back = back.view_as(hidden)
        return (back, *out[1:]) if isinstance(out, tuple) else back

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()


class Agreement:
    """How far a chain with some wire is from one that rounds nothing."""

    def __init__(self, model: Any, ids: torch.Tensor, n_tokens: int) -> None:
        self._model, self._ids, self._n_tokens = model, ids, n_tokens
        self._exact, self.tokens = model(ids).logits[0], self._greedy()

    def _greedy(self) -> list[int]:
        out = self._model.generate(
            self._ids[:, :32],
            max_new_tokens=self._n_tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        tokens: list[int] = out[0, 32:].tolist()
        return tokens

    def cells(self, wire: WireFormat) -> list[str]:
        """Relative error of logits, equal top-1, greedy tokens up to the first that differs."""
        with RoundedAtBorders(self._model, wire):
            logits, tokens = self._model(self._ids).logits[0], self._greedy()
        error = float((logits - self._exact).norm() / self._exact.norm())
        top = float((logits.argmax(-1) == self._exact.argmax(-1)).float().mean())
        pairs = enumerate(zip(tokens, self.tokens, strict=True))
        first = next((i for i, (ours, theirs) in pairs if ours != theirs), self._n_tokens)
        return [f"{error:.1e}", f"{top:.3f}", f"{first} of {self._n_tokens}"]


@torch.inference_mode()
def families(n_tokens: int) -> None:
    """Of each family in its tests' size."""
    from tests.checkpoints import FAMILIES, write_checkpoint

    rows = []
    with tempfile.TemporaryDirectory(prefix="manyhands-bench-") as scratch:
        for family in FAMILIES:
            model = load(write_checkpoint(Path(scratch) / family, family))
            agreement = Agreement(model, prompt_of(model, Path(scratch)), n_tokens)
            for wire in (FORMATS["bfloat16"], FORMATS["int8-64"]):
                distinct = str(len(set(agreement.tokens)))
                rows.append([family, distinct, str(wire), *agreement.cells(wire)])
    heading = ["family", "distinct greedy tokens", "format", "rel. error of logits"]
    common.table([*heading, "top-1 equal", "greedy equal up to"], rows)


@torch.inference_mode()
def formats(name: str, model: Any, ids: torch.Tensor, n_tokens: int, rounds: int) -> None:
    """Bytes, time and agreement of each."""
    hidden = model(ids, output_hidden_states=True).hidden_states[len(blocks_of(model)) // 2][0]
    agreement = Agreement(model, ids, n_tokens)
    width = hidden.shape[1]
    rows = []
    for wire in FORMATS.values():
        sent, write_s = timed(lambda wire=wire: bytes(to_wire(wire, hidden)), rounds)
        _, read_s = timed(lambda w=wire, s=sent: from_wire(w, s, width, hidden.dtype, CPU), rounds)
        rows.append(
            [
                str(wire),
                str(wire.row_bytes(width)),
                f"{write_s / len(hidden) * 1e6:.2f}",
                f"{read_s / len(hidden) * 1e6:.2f}",
                *agreement.cells(wire),
            ]
        )
    print(
        f"\n{name}: {hidden.shape[1]} wide, {len(set(agreement.tokens))} distinct greedy tokens\n"
    )
    heading = ["format", "bytes/row", "write us/row", "read us/row", "rel. error of logits"]
    common.table([*heading, "top-1 equal", "greedy equal up to"], rows)


Codec = tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]


def deflate(level: int, strategy: int) -> Codec:
    def shrink(data: bytes) -> bytes:
        codec = zlib.compressobj(level, zlib.DEFLATED, -15, 9, strategy)
        return codec.compress(data) + codec.flush()

    return shrink, lambda data: zlib.decompress(data, -15)


def codecs() -> dict[str, Codec]:
    """For the high bytes alone. Only our own is a dependency."""
    known = {
        "zlib, Huffman only": deflate(1, zlib.Z_HUFFMAN_ONLY),
        "zlib, level 1": deflate(1, zlib.Z_DEFAULT_STRATEGY),
    }
    try:
        import zstandard

        for level in (1, -5):
            pair = zstandard.ZstdCompressor(level).compress, zstandard.ZstdDecompressor().decompress
            known[f"zstandard, level {level}"] = pair
    except ImportError:
        pass
    try:
        import lz4.frame

        known["lz4"] = lz4.frame.compress, lz4.frame.decompress
    except ImportError:
        pass
    return known


@torch.inference_mode()
def packing(name: str, model: Any, ids: torch.Tensor, rounds: int) -> None:
    """Ours whole, as frames are packed; the others on the high bytes alone."""
    hidden = model(ids, output_hidden_states=True).hidden_states[len(blocks_of(model)) // 2][0]
    rows = []
    for wire in (FORMATS["bfloat16"], FORMATS["float32"]):
        body, width = bytes(to_wire(wire, hidden)), wire.pack_width
        packed, pack_s = timed(lambda b=body, w=width: pack(b, w), rounds)
        assert packed is not None
        view, size = memoryview(packed), len(body)
        back, unpack_s = timed(lambda v=view, w=width, n=size: unpack(v, w, n), rounds)
        assert bytes(back) == body
        rows.append(_packed(f"{wire}: ours", size, len(packed), pack_s, unpack_s))
        high = body[width - 1 :: width]
        for label, (shrink, grow) in codecs().items():
            small, shrink_s = timed(lambda s=shrink, h=high: s(h), rounds)
            _, grow_s = timed(lambda g=grow, s=small: g(s), rounds)
            total = size - len(high) + len(small)
            rows.append(_packed(f"{wire}: {label}, high bytes", size, total, shrink_s, grow_s))
    print(f"\n{name}\n")
    common.table(["packing", "ratio", "pack MB/s", "unpack MB/s", "pays below Mbit/s"], rows)


def _packed(label: str, size: int, packed: int, pack_s: float, unpack_s: float) -> list[str]:
    pays_mbit = (size - packed) * 8 / (pack_s + unpack_s) / 1e6
    speeds = [f"{size / seconds / 1e6:.0f}" for seconds in (pack_s, unpack_s)]
    return [label, f"{packed / size:.3f}", *speeds, f"{pays_mbit:.0f}"]


GRPC, HTTP2, TLS = 5, 9, 22  # bytes before a message, a DATA frame; around a record (TLS 1.3)
INITIAL_WINDOW = 10 * 1460  # bytes that TCP sends before any is acknowledged (RFC 6928)


def frames() -> None:
    """What a frame of decoded rows carries besides them, and what it is carried in."""
    rows = []
    for n_sessions in (1, 4, 16):
        groups = tuple(
            RowGroup(SessionId(bytes([n]) * 16), 1, 300, 4000 + n, 30_000 + n, 1, 29_000)
            for n in range(n_sessions)
        )
        for wire, hidden_size in ((FORMATS["float32"], 768), (FORMATS["bfloat16"], 4096)):
            row_bytes = wire.row_bytes(hidden_size)
            data = data_bytes(Frame(groups, row_bytes, bytes(n_sessions * row_bytes)))
            header = len(data) - n_sessions * row_bytes
            on_the_wire = len(data) + GRPC + HTTP2 + TLS
            rows.append(
                [
                    str(n_sessions),
                    f"{hidden_size} x {wire}",
                    str(header),
                    f"{header / n_sessions:.0f}",
                    str(GRPC + HTTP2 + TLS),
                    str(on_the_wire),
                    "yes" if on_the_wire <= INITIAL_WINDOW else "no",
                ]
            )
    print("\nFrames of decoded rows, late in a long answer with drafts\n")
    heading = ["sessions", "row", "header", "per session", "gRPC, HTTP/2, TLS", "in all"]
    common.table([*heading, "in one initial window"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and tokens")
    parser.add_argument("--model", type=Path, help="a checkpoint directory of your own")
    parser.add_argument("--families", action="store_true", help="agreement, family by family")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="The given buffer is not writable")
    rounds, n_tokens = (3, 48) if options.quick else (20, 200)
    print(common.machine())
    frames()
    if options.families:
        families(n_tokens)
        return
    with common.random_llama() as random_directory:
        models = {"built-in": BUILT_IN, "random 12 x 768": random_directory}
        if options.model:
            models = {options.model.name: options.model}
        for name, directory in models.items():
            model = load(directory)
            ids = prompt_of(model, directory)
            formats(name, model, ids, n_tokens, rounds)
            packing(name, model, ids, rounds)


if __name__ == "__main__":
    main()
