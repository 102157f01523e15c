"""No room uses what only Unix has, unless it asks first or has another way beside it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("manyhands", "node", "scheduler", "ledger", "protocol")
# Of modules that every system has, what Windows lacks. Lists of the library's documentation.
LACKING = {
    "os": {
        *("O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "WNOHANG", "chown", "fchmod"),
        *("fchown", "fork", "forkpty", "getegid", "geteuid", "getgid", "getloadavg", "getpgid"),
        *("getpgrp", "getpriority", "getsid", "getuid", "initgroups", "killpg", "lchown", "lockf"),
        *("mkfifo", "nice", "openpty", "posix_fadvise", "posix_fallocate", "posix_spawn", "pread"),
        *(
            "preadv",
            "pwrite",
            "pwritev",
            "register_at_fork",
            "sched_getaffinity",
            "sched_setaffinity",
        ),
        *(
            "sched_yield",
            "sendfile",
            "setpgid",
            "setpriority",
            "setsid",
            "setuid",
            "statvfs",
            "sync",
        ),
        *("sysconf", "uname", "wait", "waitid", "wait3", "wait4", "getxattr", "setxattr"),
    },
    "signal": {
        *("SIGALRM", "SIGCHLD", "SIGCONT", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGQUIT", "SIGSTOP"),
        *("SIGTSTP", "SIGUSR1", "SIGUSR2", "SIGWINCH", "alarm", "pause", "pthread_kill"),
        *("pthread_sigmask", "setitimer", "sigwait", "siginterrupt"),
    },
    "socket": {"AF_UNIX", "AF_NETLINK", "AF_PACKET", "SO_REUSEPORT", "send_fds", "recv_fds"},
    "asyncio": {"open_unix_connection", "start_unix_server"},
}
MODULES = {
    *("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog", "posix", "uvloop"),
    *("crypt", "spwd", "readline", "curses"),
}
METHODS = {"add_signal_handler", "remove_signal_handler"}
ARGUMENTS = {"preexec_fn", "start_new_session", "pass_fds"}  # of subprocesses
CAUGHT = {"ImportError", "ModuleNotFoundError", "AttributeError", "NotImplementedError"}

Guarded = (
    ast.Try | ast.If | ast.IfExp | ast.BoolOp | ast.FunctionDef | ast.AsyncFunctionDef | ast.With
)


def uses(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=module), attr=name) if name in LACKING.get(
                module, ()
            ):
                yield node, f"{module}.{name}"
            case ast.Attribute(attr=name) if name in METHODS:
                yield node, name
            case ast.Import(names=names):
                yield from ((node, each.name) for each in names if each.name in MODULES)
            case ast.ImportFrom(module=str() as module) if module in MODULES:
                yield node, module
            case ast.ImportFrom(module=str() as module, names=names) if module in LACKING:
                lacking = LACKING[module]
                yield from ((node, f"{module}.{n.name}") for n in names if n.name in lacking)
            case ast.keyword(arg=str() as name) if name in ARGUMENTS:
                yield node, name
            case ast.Call(func=ast.Attribute(attr="CDLL"), args=[ast.Constant(value=None)]):
                yield node, "CDLL(None)"


def unguarded(source: str) -> list[str]:
    """What a module uses without asking."""
    tree = ast.parse(source)
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    found = []
    for node, name in uses(tree):
        at, line = node, getattr(node, "lineno", None) or parents[node].lineno
        while at in parents:
            below, at = at, parents[at]
            if is_guard(at, below, line):
                break
        else:
            found.append(f"{line}: {name}")
    return found


def is_guard(node: ast.AST, below: ast.AST, line: int) -> bool:
    """Whether `node`, which `below` is in, asks whether the system has it, or catches that not."""
    match node:
        case ast.Try():
            in_body = below in node.body
            names = {
                n.id
                for h in node.handlers
                for n in ast.walk(h.type or h)
                if isinstance(n, ast.Name)
            }
            # What is in `else` comes after an import that was tried.
            return (in_body or below in node.orelse) and bool(names & CAUGHT)
        case ast.With():
            items = {n.id for i in node.items for n in ast.walk(i) if isinstance(n, ast.Name)}
            return "suppress" in items and bool(items & CAUGHT)
        case ast.If() | ast.IfExp():
            return asks(node.test)
        case ast.BoolOp():
            return any(asks(value) for value in node.values)
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            # `if sys.platform != …: return` before it.
            return any(
                isinstance(each, ast.If) and asks(each.test) and leaves(each) and each.lineno < line
                for each in ast.walk(node)
            )
    return False


def asks(test: ast.AST) -> bool:
    for node in ast.walk(test):
        match node:
            case ast.Attribute(value=ast.Name(id="sys"), attr="platform"):
                return True
            case ast.Attribute(value=ast.Name(id="os"), attr="name"):
                return True
            case ast.Call(func=ast.Name(id="hasattr" | "getattr")):
                return True
            case ast.Name(id=name) if name.startswith("HAS_"):
                return True
    return False


def leaves(branch: ast.If) -> bool:
    return any(isinstance(each, ast.Return | ast.Raise) for each in branch.body)


def sources() -> list[Path]:
    files = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
    return [path for path in files if "pb" not in path.parts]


def test_every_use_of_what_only_unix_has_asks_first():
    found = [
        f"{path.relative_to(ROOT)}:{use}"
        for path in sources()
        for use in unguarded(path.read_text())
    ]

    assert not found


@pytest.mark.parametrize(
    ("source", "is_found"),
    [
        ("import os\nos.kill(1, 2)", False),
        ("import os\nos.setsid()", True),
        ("from os import statvfs", True),
        ("import fcntl", True),
        ("try:\n    import fcntl\nexcept ImportError:\n    pass", False),
        ("try:\n    import fcntl\nexcept ValueError:\n    pass", True),
        ("import signal\nx = signal.SIGKILL", True),
        ("import signal\nx = signal.SIGKILL if hasattr(signal, 'SIGKILL') else 9", False),
        ("def f():\n    if sys.platform == 'win32':\n        return\n    os.getuid()", False),
        ("def f():\n    os.getuid()\n    if sys.platform == 'win32':\n        return", True),
        ("if x:\n    os.getuid()", True),
        ("loop.add_signal_handler(2, f)", True),
        ("subprocess.Popen(x, start_new_session=True)", True),
        ("ctypes.CDLL(None).x", True),
        ("HAS_FLOCK = 1\nif HAS_FLOCK:\n    os.getuid()", False),
        ("os.name == 'posix' and os.getuid()", False),
    ],
)
def test_the_rule_finds_what_it_is_for(source, is_found):
    assert bool(unguarded(source)) == is_found
