"""The command line: `cmdana COMMAND`, each a thin layer over a typed function."""

from __future__ import annotations

import atexit
import errno
import os
import signal
import sys
from contextlib import suppress
from typing import NoReturn

from cmdana_plugin.cli import adapting, archive, desk, judging, learning, reading, setup, sharing
from cmdana_plugin.cli.options import app, held
from feature_extractors import CmdanaError

__all__ = ["app", "entry", "main"]
_AGAIN_SECONDS = 0.2
_OURS = ("cmdana_plugin", "feature_extractors")
# in the order in which the help shows them
_COMMANDS = (judging, archive, adapting, learning, reading, desk, sharing, setup)


def entry() -> NoReturn:
    """The console entry point: runs `main`, then ends the process without Python's teardown.

    Python would take torch and all that it has loaded apart piece by piece, for a third of a second. SIGTERM and
    SIGHUP end a command as Ctrl-C does, with nothing half-written left.
    """
    signal.signal(signal.SIGTERM, _end)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
        signal.signal(signal.SIGHUP, _end)
    try:
        main()
    except BaseException as raised:
        signal.setitimer(signal.ITIMER_REAL, 0)
        if (done := _exit_in(raised)) is None:
            raise
        status = done.code
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        pass  # its reader has gone, and wants no more
    except OSError as error:
        print(f"cmdana: cannot write: {error.strerror}", file=sys.stderr)
        status = 1
    with suppress(OSError, ValueError):
        sys.stderr.flush()
    os._exit(status if isinstance(status, int) else 0)


def _end(told: int, _frame: object) -> None:
    """Ends the command by `SystemExit`, which is raised until it is seen on its way.

    Python loses an exception that a signal raises in the midst of `compile`, as an import calls it (seen in 3.11), of
    a callback or of a finalizer, and makes a `RuntimeError` of one from `__set_name__`.
    """
    signal.signal(signal.SIGALRM, lambda _number, frame: _end(told, frame))
    signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS)
    if _exit_in(sys.exc_info()[1]) is None:
        sys.exit(128 + told)


def _exit_in(raised: BaseException | None) -> SystemExit | None:
    """The `SystemExit` that an exception is, or came of."""
    while raised is not None and not isinstance(raised, SystemExit):
        raised = raised.__cause__ or raised.__context__
    return raised


def main() -> NoReturn:
    """Runs a command and exits with its status; every foreseen fault is one line on stderr and exit status 1."""
    try:
        with held:
            app()
    except CmdanaError as error:
        from cmdana_plugin.analyst import printable

        # Names of files, and what is in them, may be anybody's: one line, and nothing that moves a cursor.
        print(f"cmdana: {printable(str(error), 4000)}", file=sys.stderr)
        sys.exit(1)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", *_OURS):
            raise
        print(
            f"cmdana: {missing} is not installed, which this command needs: `make install` in the repository, "
            "or pip install cmdana, brings it",
            file=sys.stderr,
        )
        sys.exit(1)
    except BrokenPipeError:
        # The reader of our output has gone (`cmdana alerts | head`); nothing is wrong.
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"cmdana: cannot write: {error.strerror}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("cmdana: interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)
