"""What a measured program is to who measures it: asked by a line of JSON, it answers by a line.

In, on standard input: `{"prompts": [[id, …], …], "n_tokens": n}`, all prompts at once. Out, on
standard output: `{"answers": [{"asked_s", "ids", "at_s"}, …]}`, when each token came by the
monotonic clock, which all processes of a machine share. Whatever libraries print goes to standard
error. A program is over when its input is, also when who measures was killed, and takes all
processes of its group along. Python 3.10, and nothing of ours: Petals' environment has neither.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

OVER_S = 15.0  # to end by itself


class Heard:
    """A `transformers` streamer that notes when tokens come. Its first call brings the prompt."""

    def __init__(self):
        self.asked_s = time.monotonic()
        self.at_s = []
        self._has_begun = False

    def put(self, ids):
        if self._has_begun:
            self.at_s.append(time.monotonic())
        self._has_begun = True

    def end(self):
        pass

    def answer(self, ids):
        return {"asked_s": self.asked_s, "ids": ids, "at_s": self.at_s}


def own_output():
    """Where lines for who measures go; from now on nothing else goes there."""
    lines = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return lines


def serve(answers, lines):
    """Answer until standard input ends.

    answers: of prompts and a number of tokens, what to say.
    """
    print(json.dumps({"ready": True}), file=lines, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        said = {"answers": answers(asked["prompts"], asked["n_tokens"])}
        print(json.dumps(said), file=lines, flush=True)


def interrupt_at_end_of_input():
    """For a program that reads no lines: Ctrl-C when its input ends, and if that does not help,
    the end of its group."""

    def watch():
        while os.read(0, 1):
            pass
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # it may be waiting
        give_up_later()

    signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs behind a shell ignores it
    threading.Thread(target=watch, daemon=True).start()


def give_up_later():
    """Should this process still be there in a while, it ends, with its group."""
    timer = threading.Timer(OVER_S, os.killpg, (0, signal.SIGKILL))
    timer.daemon = True
    timer.start()


def end_others():
    """All other processes of this group are killed."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            group = int(stat.read_text().rpartition(")")[2].split()[2])
            pid = int(stat.parent.name)
            if group == os.getpgid(0) and pid != os.getpid():
                os.kill(pid, signal.SIGKILL)
        except (OSError, IndexError):
            continue  # it was faster
