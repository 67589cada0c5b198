"""What all commands share: the application they belong to, its options, the configuration, words to the operator.

Nothing heavy is imported before a command needs it: torch comes in while a capture is already being read.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from feature_extractors import CmdanaError

if TYPE_CHECKING:
    from cmdana_plugin import config as configuration

held = ExitStack()  # until the command ends: what no other command may write in the meantime

app = typer.Typer(
    name="cmdana",
    help="Says which connections and hosts behave unlike the network's own normal, why, and how sure it is.",
    epilog="Exit status: 0 fine, 1 failed, 2 wrong usage. Start with `cmdana doctor` or `cmdana replay CAPTURE`.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="plugin.toml to use; else the user's, /etc/cmdana's, harmless parts of ./'s.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
FormatOption = Annotated[
    Literal["table", "json", "brief"],
    typer.Option("--format", help="brief is for language models: what is quoted from traffic is marked."),
]
ModelOption = Annotated[
    Path | None, typer.Option("--model", help="Checkpoint to use instead of [model] path.")
]
StateOption = Annotated[
    bool, typer.Option("--state", help="Go on from the state in [state] folder, and leave it there.")
]


def _version(wanted: bool) -> None:
    if wanted:
        import importlib.metadata

        print(f"cmdana {importlib.metadata.version('cmdana')}")
        raise typer.Exit


@app.callback()
def about(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end."),
    ] = False,
) -> None:
    """Says which connections and hosts behave unlike the network's own normal, why, and how sure it is."""


def configured(path: Path | None, notify_line: Callable[[str], None] | None = None) -> configuration.Found:
    """The configuration in use and its origin, of which the operator is notified unless it is the defaults."""
    from cmdana_plugin import config

    found = config.find(path)
    if words := found.words():
        (notify_line or notify)(words)
    return found


def say_if_it_compiles(module: str) -> bool:
    """Whether numba compiles first, for a minute or two, of which it notifies the operator.

    `module` is one that the command needs.
    """
    from cmdana_plugin import compile_cache as compiled

    if compiled.kept(module):
        return False
    notify("compiling for this processor, once, for a minute or two; `cmdana doctor --compile` does so ahead")
    held.callback(compiled.keep_what_was_compiled)
    return True


def notify(line: str) -> None:
    """Prints a line for the operator on stderr."""
    print(f"cmdana: {line}", file=sys.stderr, flush=True)


def notify_json(line: str) -> None:
    """Prints a line for the operator on stdout as a JSON object with its time."""
    print(
        json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "said": line}), flush=True
    )


def refuse_to_overwrite(path: Path, force: bool) -> None:
    """Locks the file to write until the end of the command. Raises `CmdanaError` where it cannot or may not be made."""
    from cmdana_plugin import files

    if path.is_dir():
        raise CmdanaError(f"{path}: is a folder; expected a file to write")
    if path.exists() and not force:
        raise CmdanaError(f"{path}: is there already; choose another --out, or --force to overwrite")
    if not path.parent.is_dir():
        raise CmdanaError(f"{path}: the folder {path.parent} does not exist")
    try:
        held.enter_context(files.alone(path.parent, path.name))
    except OSError as error:
        raise CmdanaError(f"{path}: cannot be written: {error.strerror}") from None
