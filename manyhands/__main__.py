"""`python -m manyhands` is the command `manyhands`."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports below: end, no traceback

from manyhands.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
