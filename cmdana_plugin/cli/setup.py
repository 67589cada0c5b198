"""The commands that set a site up, and say what is installed and reachable."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from cmdana_plugin.cli.options import (
    ConfigOption,
    JsonOption,
    ModelOption,
    app,
    notify,
    say_if_it_compiles,
)


@app.command(
    short_help="Set a site up: configuration, secret, a unit of systemd; then look whether all is there.",
    epilog="Example: cmdana init --connections 200000 --alerts 10 --user zeek",
)
def init(
    connections: Annotated[
        int | None, typer.Option(min=1, help="Connections that this site sees in a day.")
    ] = None,
    logs: Annotated[
        list[Path] | None, typer.Option("--logs", help="Count them in these conn.logs, or folders, instead.")
    ] = None,
    alerts: Annotated[
        float | None, typer.Option(min=0.01, help="Incidents a day that the analysts can read.")
    ] = None,
    user: Annotated[
        str | None, typer.Option(help="User that Zeek and the detector run as; it will own the secret.")
    ] = None,
    unit: Annotated[
        bool | None, typer.Option("--unit/--no-unit", help="Write a unit of systemd; default: for root.")
    ] = None,
    into: Annotated[
        Path | None, typer.Option("--into", help="Write all into this folder, not where it is looked for.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Write what is there anew; the secret stays.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Set a site up: plugin.toml, the secret that Zeek and the detector share, a unit of systemd. Asks what it needs.

    For the whole host (/etc) where root asks, else for the user. Then does as `cmdana doctor`.
    """
    from cmdana_plugin import doctor as examining
    from cmdana_plugin import installation
    from cmdana_plugin.analyst import terminal as show
    from cmdana_plugin.endpoint import scripts_folder

    asks = sys.stdin.isatty() and not as_json
    usual = installation.Answers()
    if logs:
        connections = installation.connections_a_day(logs)
        notify(f"{connections:,} connections a day in {', '.join(map(str, logs))}")
    elif connections is None:
        connections = usual.connections_per_day
        if asks:
            connections = typer.prompt(
                "Connections that this site sees in a day", connections, type=int, err=True
            )
    if alerts is None:
        alerts = usual.alerts_per_day
        if asks:
            alerts = typer.prompt("Incidents a day that the analysts can read", alerts, type=float, err=True)
    if user is None:
        user = typer.prompt("User that Zeek runs as", "zeek", err=True) if asks and os.geteuid() == 0 else ""
    done = installation.write(installation.Answers(connections, alerts, user), into, unit=unit, force=force)
    from cmdana_plugin import config as configuration

    steps = installation.next_steps(done, scripts_folder(configuration.load(done.configuration)))
    if not as_json:
        for path in (done.configuration, done.secret, done.unit):
            if path:
                print(f"{path}: {'was there, and stays' if path in done.kept else 'written'}")
    say_if_it_compiles("tracker")
    findings = []
    for finding in examining.examine(done.configuration):
        findings.append(finding)
        if not as_json:
            show.finding(finding)
    if as_json:
        written = {"configuration": done.configuration, "secret": done.secret, "unit": done.unit}
        print(json.dumps({
            **{name: path and str(path) for name, path in written.items()}, "kept": list(map(str, done.kept)),
            "next": steps, "doctor": [examining.finding_object(f) for f in findings],
        }))  # fmt: skip
    else:
        print("\nWhat is left:", *steps, sep="\n")
    raise typer.Exit(any(f.fails for f in findings))


@app.command(
    short_help="Say what is installed and reachable, and what to do about it.",
    epilog="Example: cmdana doctor --config plugin.toml",
)
def doctor(
    model: ModelOption = None,
    config: ConfigOption = None,
    init_secret: Annotated[
        bool,
        typer.Option(
            "--init-secret", help="Make the secret that Zeek and the detector share, and say where."
        ),
    ] = False,
    compile_all: Annotated[
        bool,
        typer.Option("--compile", help="Compile all that the first run would, for a minute or two, and end."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what is installed and reachable, and what to do about the rest. Exit status 1 if something is broken."""
    from cmdana_plugin import doctor as examining
    from cmdana_plugin.analyst import terminal as show

    if init_secret:
        from cmdana_plugin import config as configuration
        from cmdana_plugin.keyfile import new_secret

        path = new_secret(configuration.load(config).endpoint.secret_file)
        print(json.dumps({"secret_file": str(path)}) if as_json else examining.secret_made(path))
        return

    if compile_all:
        from cmdana_plugin.cli.compiling import compile_everything

        kept = compile_everything(lambda what: notify(f"compiling: {what}"))
        print(json.dumps({"compiled": kept}) if as_json else f"{kept} functions compiled and kept")
        return

    findings = []
    say_if_it_compiles("tracker")  # the model judges a small capture
    for finding in examining.examine(config, model):
        findings.append(finding)
        if not as_json:
            show.finding(finding)
    if as_json:
        print(json.dumps([examining.finding_object(f) for f in findings]))
    raise typer.Exit(any(f.fails for f in findings))
