"""The command line: `cmdana COMMAND`, each a thin layer over a typed function."""

from __future__ import annotations

import atexit
import errno
import os
import signal
import sys
from contextlib import suppress
from typing import NoReturn

from cmdana_plugin.cli import judging, learning, reading, setup
from cmdana_plugin.cli.options import app, held
from feature_extractors import CmdanaError

__all__ = ["app", "entry", "main"]
_COMMANDS = (judging, learning, reading, setup)  # in the order in which the help shows them


def entry() -> NoReturn:
    """The console entry point: runs `main`, then ends the process without Python's teardown.

    Python would take torch and all that it has loaded apart piece by piece, for a third of a second. SIGTERM and
    SIGHUP end a command as Ctrl-C does, with nothing half-written left.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
        signal.signal(signal.SIGHUP, lambda *_: sys.exit(128 + signal.SIGHUP))
    try:
        main()
    except SystemExit as done:
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
