"""aider: one message, about a file."""

import os
import subprocess
import sys
from pathlib import Path

from telling import API, check, run


@check("a message about a file")
def _() -> None:
    Path("hello.txt").write_text("Hello\n")
    flags = (
        *("--model", "openai/default", "--message", "Hello", "--no-git", "--yes-always"),
        *("--no-stream", "--map-tokens", "0", "--edit-format", "ask", "--no-check-update"),
        *(
            "--no-show-model-warnings",
            "--analytics-disable",
            "--no-pretty",
            "--no-show-release-notes",
        ),
    )
    given = {
        **os.environ,
        "OPENAI_API_BASE": API,
        "OPENAI_API_KEY": "none",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it fetches a table of prices
    }
    done = subprocess.run(
        [sys.executable, "-m", "aider", *flags, "hello.txt"],
        capture_output=True, text=True, timeout=300, env=given,
    )  # fmt: skip
    told = done.stdout + done.stderr
    assert done.returncode == 0, told[-300:]
    assert " received." in told, told[-300:]
    assert "litellm." not in told, told[-300:]  # how it names what failed


run()
