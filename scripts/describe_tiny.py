#!/usr/bin/env python
"""Write the manifest of the built-in model.

    python scripts/describe_tiny.py [DIRECTORY of train_tiny.py]

To be run after `train_tiny.py`; a node checks what it loads against this file.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from protocol.describing import MANIFEST_FILE, make_manifest  # noqa: E402


def main() -> int:
    given = sys.argv[1:] or [str(ROOT / "manyhands" / "models" / "tiny")]
    directory = Path(given[0])
    (directory / MANIFEST_FILE).unlink(missing_ok=True)  # whatever an older one says
    manifest = make_manifest(directory, name=directory.name, licence="Apache-2.0")
    (directory / MANIFEST_FILE).write_bytes(manifest.to_json() + b"\n")
    print(f"{manifest.digest.hex()}  {directory}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
