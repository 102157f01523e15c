"""`python -m manyhands` is the command `manyhands`."""

import os
import signal

for fd in (0, 1, 2):  # cron and daemons may start us without; what opens next must not land there
    try:
        os.fstat(fd)
    except OSError:
        os.open(os.devnull, os.O_RDWR)

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports below: end, no traceback

from manyhands.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
