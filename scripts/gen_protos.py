#!/usr/bin/env python
"""Generate `protocol/pb/` from `proto/`; with --check, say whether what is committed is current.

The generated modules and their type stubs are committed, so that installing Manyhands needs no
compiler. grpcio-tools stays below 1.82: newer ones emit code that protobuf 6 refuses to load.
"""

import argparse
import sys
import sysconfig
import tempfile
from importlib.resources import files
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO, OUT = ROOT / "proto" / "manyhands" / "v1", ROOT / "protocol" / "pb"


def generate(out: Path) -> None:
    """Write one module and one stub per .proto file into `out`."""
    from grpc_tools import protoc

    stubs = Path(sysconfig.get_path("scripts")) / "protoc-gen-mypy"  # found without PATH
    sources = sorted(str(path) for path in PROTO.glob("*.proto"))
    code = protoc.main(
        [
            "protoc",
            f"-I{PROTO}",
            f"-I{files('grpc_tools') / '_proto'}",
            f"--plugin=protoc-gen-mypy={stubs}",
            f"--python_out={out}",
            f"--mypy_out=quiet:{out}",
            *sources,
        ]
    )
    if code:
        raise SystemExit(f"protoc failed with exit code {code}")
    (out / "__init__.py").write_text(
        '"""Generated from proto/ by scripts/gen_protos.py; never edited."""\n'
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 when stale")
    if not parser.parse_args().check:
        OUT.mkdir(exist_ok=True)
        generate(OUT)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        fresh = {path.name: path.read_bytes() for path in Path(scratch).iterdir()}
    committed = {path.name: path.read_bytes() for path in OUT.glob("*.py*")}
    stale = sorted(
        name for name in fresh.keys() | committed.keys() if fresh.get(name) != committed.get(name)
    )
    for name in stale:
        print(f"protocol/pb/{name} is stale: run scripts/gen_protos.py", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
