"""A node that takes a prompt whole, as chains without a pipeline do: to compare with, only here.

In: `manyhands` commands. Out: the same node, whose step has all rows of a prompt, and whose frame
all of its outputs, unpacked. So each hop waits until the one before it has run and sent everything.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

WHOLE = 1 << 30  # rows or bytes: more than any prompt has

if __name__ == "__main__":
    from manyhands.cli import main
    from node import schedule
    from protocol import links

    schedule.PREFILL_ROWS = WHOLE
    schedule.MAX_STEP_US = float(WHOLE)
    links.PUSH_BYTES = links.CREDIT_BYTES = WHOLE
    main()
