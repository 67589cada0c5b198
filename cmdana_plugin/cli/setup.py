"""The command that says what is installed and reachable."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from cmdana_plugin import config as configuration
from cmdana_plugin.cli.options import (
    ConfigOption,
    JsonOption,
    ModelOption,
    app,
    say_if_it_compiles,
)


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
    as_json: JsonOption = False,
) -> None:
    """Say what is installed and reachable, and what to do about the rest. Exit status 1 if something is broken."""
    from cmdana_plugin import doctor as examining
    from cmdana_plugin.analyst import terminal as show

    if init_secret:
        from cmdana_plugin.keyfile import new_secret

        path = new_secret(configuration.load(config).endpoint.secret_file)
        print(json.dumps({"secret_file": str(path)}) if as_json else examining.secret_made(path))
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
