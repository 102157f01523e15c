"""Log lines on stderr: a fixed phrase, then its fields as name=value."""

import logging

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class FieldFormatter(logging.Formatter):
    """`12:00:01 warning peer lost peer=12D3Koo…`: what `extra` brought is shown."""

    default_time_format = "%H:%M:%S"
    default_msec_format = None

    def format(self, record: logging.LogRecord) -> str:
        given = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        fields = "".join(f" {name}={value}" for name, value in given.items())
        line = f"{self.formatTime(record)} {record.levelname.lower()} {record.getMessage()}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def show_logs(verbosity: int) -> None:
    """-1: errors alone; 0: warnings; 1: the operator's story; 2: the developer's."""
    levels = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO}
    handler = logging.StreamHandler()
    handler.setFormatter(FieldFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)  # libraries: what an operator should see
    for room in ("manyhands", "node", "scheduler", "ledger", "protocol"):
        logging.getLogger(room).setLevel(levels.get(verbosity, logging.DEBUG))
