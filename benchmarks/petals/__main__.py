"""Petals, plain `transformers` and Manyhands side by side: `python -m benchmarks.petals`.

Once: `python -m benchmarks.petals install` (needs Python 3.10 and 6 GB; see `environment.py`). Then
one run takes all sides in turns, round by round: a random Llama 8 x 512 in fp32, greedy, four
servers of two blocks, one torch thread per process; the speed of one session and of eight at once
while they decode, and the wait for the first token of a prompt of 512 ids. `--scenario far`: 25 ms
between any two servers each way, the client 100 ms away, through proxies that both systems' real
connections go through. `transformers` is the whole model in one process, without links; its eight
are one batch. Ends with 1 where any token differs or a process is left behind.
"""

import argparse
import asyncio
import sys
from pathlib import Path

from benchmarks.petals import environment
from benchmarks.petals.asked import Failed
from benchmarks.petals.environment import Missing
from protocol.errors import ManyhandsError

SCENARIOS = ("loopback", "far")


def main() -> int:
    options = _arguments()
    folder: Path = options.folder
    try:
        if options.what == "install":
            environment.install(folder, options.python)
            print(f"Petals is in {folder}")
            return 0
        python = environment.petals_python(folder)
        from benchmarks.petals.comparing import compare  # it brings torch along

        return asyncio.run(compare(options, python))
    except (Missing, Failed, ManyhandsError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        if isinstance(error, Missing):
            print(f"fix: {error.fix}", file=sys.stderr)
        return 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", nargs="?", choices=("measure", "install"), default="measure")
    parser.add_argument("--scenario", nargs="+", choices=SCENARIOS, default=SCENARIOS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, help="of each session that decodes; 64, far away 24")
    parser.add_argument(
        "--first", action="store_true", help="before all other work of this machine; root only"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=environment.default_folder())
    parser.add_argument("--python", type=Path, help="a Python 3.10, to install with")
    parser.add_argument("--out", type=Path, help="write all of it as JSON")
    parser.add_argument("--draw", action="store_true", help="write docs/images/petals-*.svg")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
