"""The command line: `cmdana COMMAND`, each a thin layer over a typed function."""

from __future__ import annotations

import atexit
import copy
import errno
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any, Final, NoReturn, cast

import typer

from cmdana_plugin.cli import options
from cmdana_plugin.cli.options import held
from feature_extractors import CmdanaError

__all__ = ["app", "chosen", "entry", "main"]  # noqa: F822 -- `__getattr__` has `app`
_AGAIN_SECONDS = 0.2
# Of click, which typer keeps to itself.
_UsageError: Final = cast("type[typer.BadParameter]", typer.BadParameter.__mro__[1])
_OURS = ("cmdana_plugin", "feature_extractors")
# Where the commands are, in the order in which the help shows them: a command loads its own module alone.
MODULES: Final = {
    "judging": ("replay", "convert", "run"),
    "archive": ("hunt", "state"),
    "adapting": ("adapt",),
    "learning": ("train", "calibrate", "evaluate"),
    "reading": ("alerts", "report", "explain", "label", "anonymise"),
    "desk": ("incidents", "decide", "serve"),
    "sharing": ("export",),
    "setup": ("init", "doctor"),
}
_COMPLETION: Final = "_CMDANA_COMPLETE"  # set by a shell that asks what could come next


def __getattr__(name: str) -> Any:
    """`app`, the application with all of its commands."""
    if name != "app":
        raise AttributeError(name)
    for module in MODULES:
        import_module(f"cmdana_plugin.cli.{module}")
    whole = _with([c for names in MODULES.values() for n in names for c in _registered() if _name(c) == n])
    globals()["app"] = whole
    return whole


def chosen(words: Sequence[str]) -> typer.Typer:
    """The application as far as a command line asks for it: with its command alone, or with all of them by name.

    To look at all commands' options takes a tenth of a second.
    """
    wanted = next((word for word in words if not word.startswith("-")), "")
    if _COMPLETION in os.environ:
        return __getattr__("app")  # type: ignore[no-any-return]
    for module, names in MODULES.items():
        if wanted in names:
            import_module(f"cmdana_plugin.cli.{module}")
            return _with([c for c in _registered() if _name(c) == wanted])
    return _with([_by_name(c) for c in __getattr__("app").registered_commands])


def _registered() -> list[Any]:
    return options.app.registered_commands


def _name(command: Any) -> str:
    return str(command.name) if command.name else command.callback.__name__


def _with(commands: list[Any]) -> typer.Typer:
    made = copy.copy(options.app)
    made.registered_commands = commands
    return made


def _by_name(command: Any) -> Any:
    """What the help says of a command, which is not run."""
    known = copy.copy(command)
    known.name, known.callback = _name(command), lambda: None
    return known


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
    """Runs a command and exits with its status; every foreseen fault is one line on stderr and exit status 1.

    So is wrong usage, with status 2.
    """
    try:
        with held:
            status = typer.main.get_command(chosen(sys.argv[1:])).main(
                prog_name="cmdana", standalone_mode=False
            )
    except _UsageError as error:
        if not sys.argv[1:]:
            error.show()  # the help
            sys.exit(error.exit_code)
        from cmdana_plugin.analyst import printable

        at = error.ctx.command_path if error.ctx is not None else "cmdana"
        said = printable(" ".join(error.format_message().split()), 4000).rstrip(".")
        print(f"cmdana: {said}; `{at} -h` has what there is", file=sys.stderr)
        sys.exit(error.exit_code)
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
    sys.exit(status if isinstance(status, int) else 0)
