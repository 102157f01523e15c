"""`python -m tests.fuzz [--inputs N] [--only NAME]… [--seed N]`: run the fuzzers, print a table.

Ends with code 1 when an input failed, and prints the bytes of each, in hex.
"""

import argparse
import sys

from tests.fuzz.harness import fuzz
from tests.fuzz.targets import TARGETS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000, help="of each parser")
    parser.add_argument("--only", action="append", choices=sorted(TARGETS), help="repeat for more")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print("| parser | inputs | taken | failures | slowest ms | peak MiB | seconds |")
    print("|---|---|---|---|---|---|---|")
    n_failures = 0
    for name in given.only or TARGETS:
        report = fuzz(TARGETS[name], given.inputs, given.seed)
        n_failures += report.n_failures
        print(
            f"| {name} | {report.n_inputs} | {report.n_taken} | {report.n_failures} |"
            f" {report.slowest_ms:.1f} | {report.peak_mib:.0f} | {report.seconds:.1f} |",
            flush=True,
        )
        for each in report.findings:
            print(f"  {each.why}\n    at {each.where}\n    {each.data.hex()}", file=sys.stderr)
    return 1 if n_failures else 0


if __name__ == "__main__":
    sys.exit(main())
