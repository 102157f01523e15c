"""A Petals server, as published; it ends when its standard input does. Runs in Petals' environment.

In: what `petals.cli.run_server` takes. See `worker.py`.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import worker


def main():
    worker.own_output()
    worker.interrupt_at_end_of_input()
    from petals.cli.run_server import main as run_server

    try:
        run_server()
    except KeyboardInterrupt:
        pass
    finally:
        worker.end_others()
    os._exit(0)  # its threads would keep it


if __name__ == "__main__":
    main()
