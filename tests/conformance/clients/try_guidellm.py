"""guidellm: a short benchmark of synthetic prompts."""

import json
import subprocess
import sys
from pathlib import Path

from telling import URL, check, run


@check("ten synthetic requests, one after the other")
def _() -> None:
    told = Path("told.json")
    flags = (
        *("--target", URL, "--model", "default", "--profile", "synchronous"),
        *("--max-requests", "10", "--data", "prompt_tokens=16,output_tokens=8"),
        *("--output-path", str(told)),
    )
    command = [sys.executable, "-m", "guidellm", "run", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, (done.stdout + done.stderr)[-400:]
    assert json.loads(told.read_text())["benchmarks"]


run()
