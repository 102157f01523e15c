"""locust: four users who stream chats for five seconds."""

import json
import subprocess
import sys
from pathlib import Path

from telling import URL, check, run

LOAD = ("--headless", "-u", "4", "-r", "4", "-t", "5s", "--json", "--only-summary")


@check("four users streaming, nothing fails")
def _() -> None:
    path = Path(__file__).with_name("locustfile.py")
    command = [sys.executable, "-m", "locust", "-f", str(path), "--host", URL, *LOAD]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-300:]
    told = {each["name"]: each for each in json.loads(done.stdout)}
    chats = told["/v1/chat/completions"]
    assert chats["num_requests"] > 4
    assert chats["num_failures"] == 0
    assert told["first token"]["num_requests"] >= chats["num_requests"]


run()
