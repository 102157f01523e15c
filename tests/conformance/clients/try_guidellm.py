"""guidellm: a short benchmark of synthetic prompts."""

import json
import os
import subprocess
import sys
from pathlib import Path

from telling import URL, check, run


@check("ten synthetic requests, one after the other")
def _() -> None:
    told = Path("told.json")
    data = "kind=synthetic_text,prompt_tokens=16,output_tokens=8"
    flags = (
        *("--backend", f"kind=openai_http,target={URL},model=default"),
        *("--profile", "kind=synchronous", "--constraint", "kind=max_requests,count=10"),
        *("--tokenizer", f"kind=huggingface_auto,model={os.environ['MANYHANDS_TINY']}"),
        *("--data", data, "--output", f"kind=json,path={told}", "--disable-console"),
    )
    command = [sys.executable, "-m", "guidellm", "run", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, (done.stdout + done.stderr)[-400:]
    (benchmark,) = json.loads(told.read_text())["benchmarks"]
    totals = benchmark["metrics"]["request_totals"]
    assert (totals["successful"], totals["errored"]) == (10, 0), totals


run()
