"""What describes a model: manifests, tables of tensors, configurations, tokenizers, adapters."""

import json
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import cbor2

from manyhands.weights.hub import CONTENT_RANGE
from node.engine.adapter_files import read_adapter
from node.files import SharedWeights, SmallFiles
from protocol.chat_template import render_chat
from protocol.config_limits import check_config
from protocol.describing import parse_config, weights_files
from protocol.errors import ManyhandsError
from protocol.gguf_table import read_gguf_table
from protocol.manifest import FileEntry, Manifest
from protocol.pieces import check_header, cut_pieces
from protocol.profile import Execution, Profile
from protocol.tensor_table import TensorEntry, header_bytes, parse_table
from protocol.text import Detokenizer, Tokenizer
from tests.fuzz.harness import Target

TINY = Path(__file__).parent.parent.parent / "manyhands" / "models" / "tiny"
_SPACE = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
_PLACE = Path(_SPACE.name)
_DIGEST = sha256(b"model").digest()
BASE = 256  # where tensors begin


def _weights() -> bytes:
    header = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]},
        "b": {"dtype": "BF16", "shape": [8], "data_offsets": [32, 48]},
    }
    return json.dumps(header).encode()


def _table(data: bytes) -> None:
    header_bytes("x", 8 + len(data) + 48, len(data).to_bytes(8, "little"))
    parse_table("x", 8 + len(data) + 48, data)


def _manifest() -> Manifest:
    from protocol.manifest import TensorPlace

    files = (
        FileEntry("config.json", 10, bytes(32)),
        FileEntry("model.safetensors", BASE + 256, bytes(32)),
    )
    tensors = {
        "model.embed_tokens.weight": TensorPlace(
            "model.safetensors", TensorEntry("F32", (4, 8), BASE, BASE + 128), bytes(32)
        ),
        "lm_head.weight": TensorPlace(
            "model.safetensors", TensorEntry("F32", (4, 8), BASE + 128, BASE + 256), bytes(32)
        ),
    }
    return Manifest(
        name="tiny",
        licence="MIT",
        architecture="LlamaForCausalLM",
        n_blocks=2,
        hidden_size=8,
        vocab_size=4,
        max_positions=64,
        files=files,
        tensors=tensors,
    )


_MANIFEST = _manifest()


def _read_manifest(data: bytes) -> None:
    manifest = Manifest.from_json(data)
    cut_pieces(manifest, list(manifest.tensors))
    manifest.small_files()


def _header(data: bytes) -> None:
    check_header(_MANIFEST, "model.safetensors", len(data).to_bytes(8, "little") + data)


def _headers() -> list[bytes]:
    names = "model.embed_tokens.weight", "lm_head.weight"
    places = [[0, 128], [128, 256]]
    table = {
        name: {"dtype": "F32", "shape": [4, 8], "data_offsets": place}
        for name, place in zip(names, places, strict=True)
    }
    return [json.dumps(table).encode().ljust(BASE - 8)]


def _config(data: bytes) -> None:
    check_config(parse_config(data, "x"), "x")


def _index(data: bytes) -> None:
    weights_files(data, [], "x")


def _gguf(data: bytes) -> None:
    path = _PLACE / "model.gguf"
    path.write_bytes(data)
    read_gguf_table(path)


def _ggufs() -> list[bytes]:
    import struct

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    head = b"GGUF" + struct.pack("<IQQ", 3, 2, 3)
    values = text("general.architecture") + struct.pack("<I", 8) + text("llama")
    values += text("general.alignment") + struct.pack("<II", 4, 32)
    values += text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b")
    tensors = text("a") + struct.pack("<IQQIQ", 2, 4, 8, 0, 0)
    tensors += text("b") + struct.pack("<IQIQ", 1, 32, 8, 128)
    begin = head + values + tensors
    return [begin + bytes(-len(begin) % 32) + bytes(128 + 34)]


def _template(data: bytes) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    render_chat(data.decode(errors="replace"), messages, {"bos_token": "<s>"})


def _templates() -> list[bytes]:
    return [
        b"{% for m in messages %}{{ bos_token }}<|{{ m['role'] }}|>{{ m.content | trim }}"
        b"{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}",
        b"{% set ns = namespace(a=0) %}{% if messages[0].role == 'x' %}{{ raise_exception('n') }}"
        b"{% else %}{{ messages | tojson }}{{ strftime_now('%Y') }}{% endif %}",
    ]


def _tokenizer_json() -> bytes:
    """Small, so that an input is soon read."""
    vocabulary = {chr(n): n - 97 for n in range(97, 123)} | {"ab": 26, "<s>": 27}
    made = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": 27, "content": "<s>", "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True}
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "fuse_unk": False,
                  "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "byte_fallback": False, "vocab": vocabulary, "merges": ["a b"]},
    }  # fmt: skip
    return json.dumps(made).encode()


def _tokenizer(data: bytes) -> None:
    tokenizer = Tokenizer({"tokenizer.json": data})
    ids = tokenizer.encode("abc")
    detokenizer = Detokenizer(tokenizer, ids[:1])
    for id in [*ids, 5, 27]:
        detokenizer.add(id)
    detokenizer.flush()


def _tokenizer_settings(data: bytes) -> None:
    tokenizer = Tokenizer({"tokenizer.json": _TOKENIZER, "tokenizer_config.json": data,
                           "generation_config.json": data, "config.json": data,
                           "special_tokens_map.json": data})  # fmt: skip
    str(tokenizer.eos_ids), str(tokenizer.generation_defaults), str(tokenizer.chat_template)


_TOKENIZER = _tokenizer_json()


def _tokenizer_configs() -> Sequence[bytes]:
    made = {
        "eos_token": {"content": "<s>"},
        "bos_token": "<s>",
        "eos_token_id": [1, 2],
        "chat_template": [{"name": "default", "template": "{{ messages }}"}],
        "added_tokens_decoder": {"27": {"content": "<s>", "special": True}},
        "do_sample": True,
        "temperature": 0.7,
        "text_config": {"eos_token_id": 3},
    }
    return [json.dumps(made).encode(), b"{}"]


def _adapter(data: bytes) -> None:
    """The two files of an adapter, apart at the first zero byte."""
    config, _, weights = data.partition(b"\x00")
    (_PLACE / "adapter_config.json").write_bytes(config)
    framed = len(weights).to_bytes(8, "little") + weights + bytes(256)
    (_PLACE / "adapter_model.safetensors").write_bytes(framed)
    read_adapter(_PLACE)


def _adapters() -> list[bytes]:
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "rank_pattern": {"q": 2},
              "alpha_pattern": {}, "target_modules": ["q_proj"]}  # fmt: skip
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    table = {
        name.format("A"): {"dtype": "F32", "shape": [2, 16], "data_offsets": [0, 128]},
        name.format("B"): {"dtype": "F32", "shape": [16, 2], "data_offsets": [128, 256]},
    }
    return [json.dumps(config).encode() + b"\x00" + json.dumps(table).encode()]


_small = SmallFiles(_DIGEST, {"config.json": b"{}"})
_shared = SharedWeights(_DIGEST, {}, lambda: False)


def _asked_for_files(data: bytes) -> None:
    for handle in (_small.handle, _shared.handle):
        with suppress(ManyhandsError, StopIteration):  # it never waits here
            handle("peer", data).send(None)  # type: ignore[arg-type]


def _file_requests() -> list[bytes]:
    return [cbor2.dumps([_DIGEST, "config.json"]), cbor2.dumps([_DIGEST, "x", 0, 9])]


def _profile(data: bytes) -> None:
    text = data.decode(errors="surrogateescape")
    Execution.parse(text)
    Profile.parse(text.partition(" ")[0])


def _range(data: bytes) -> None:
    found = CONTENT_RANGE.fullmatch(data.decode("latin-1"))
    if found:
        str((found[1], found[3]))


TARGETS = (
    Target(
        name="manifest", parse=_read_manifest, seeds=lambda: [_manifest().to_json()], shape="json"
    ),
    Target(name="safetensors-table", parse=_table, seeds=lambda: [_weights()], shape="json"),
    Target(name="safetensors-header", parse=_header, shape="json", seeds=_headers),
    Target(name="gguf-table", parse=_gguf, seeds=_ggufs),
    Target(
        name="config",
        parse=_config,
        shape="json",
        seeds=lambda: [
            (TINY / "config.json").read_bytes(),
            b'{"text_config": {"num_hidden_layers": 4}}',
        ],
    ),
    Target(
        name="weights-index",
        parse=_index,
        shape="json",
        seeds=lambda: [b'{"metadata": {}, "weight_map": {"a": "model-1.safetensors"}}'],
    ),
    Target(
        name="chat-template",
        parse=_template,
        seeds=_templates,
        words=(
            b"{{",
            b"}}",
            b"{%",
            b"%}",
            b"range(10)",
            b" * 9",
            b"| tojson",
            b".__class__",
            b"[0]",
            b"{% for a in messages %}",
            b"{% endfor %}",
            b"{% break %}",
            b"~",
            b"'x'",
            b"namespace(",
            b"{% set n = namespace(a='x') %}",
            b"{% set n.a = n.a ~ n.a %}",
            b"{% set n.a = [n.a, n.a] %}",
            b"{% set n.a %}{{ n.a }}{{ n.a }}{% endset %}",
            b"{{ n.a }}",
            b"{% for i in range(9) %}",
            b"{% macro m(x) %}{{ x }}{{ x }}{% endmacro %}",
            b"m(m('x'))",
            b"| join",
            b"| replace('x', 'xxxx')",
            b".replace('x', 'y' * 999)",
            b".join(['x', 'y'])",
            b"| indent(99)",
            b"| list",
            b"| string",
            b"| map('upper')",
            b"[1:]",
            b"'%s%9d' % ",
            b"'{:9}'.format(",
        ),
    ),
    Target(name="tokenizer", parse=_tokenizer, seeds=lambda: [_TOKENIZER], shape="json"),
    Target(
        name="tokenizer-config", parse=_tokenizer_settings, seeds=_tokenizer_configs, shape="json"
    ),
    Target(name="adapter", parse=_adapter, seeds=_adapters),
    Target(name="file-request", parse=_asked_for_files, seeds=_file_requests, shape="cbor"),
    Target(name="profile", parse=_profile, seeds=lambda: [b"float32/none/float32 manyhands/1"]),
    Target(name="content-range", parse=_range, seeds=lambda: [b"bytes 0-5/100"]),
)
