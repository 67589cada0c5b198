"""The command that hands what was found to other programs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from cmdana_plugin.cli.options import JsonOption, app, notify


@app.command(
    short_help="Hand the notices to other programs: ECS, OCSF, STIX, syslog, a webhook.",
    epilog="Example: cmdana export logs/ --format ocsf --to findings.ndjson",
)
def export(
    logs: Annotated[
        list[Path] | None, typer.Argument(help="notice.log files or folders; default: here.")
    ] = None,
    form: Annotated[
        Literal["ecs", "ocsf", "stix", "syslog"],
        typer.Option("--format", help="Elastic Common Schema, Detection Finding, STIX 2.1, RFC 5424."),
    ] = "ecs",
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="WHERE",
            help="A file, -, or udp://, tcp://, tls://HOST:PORT, unix:///PATH, http://, https://URL.",
        ),
    ] = "-",
    verdicts: Annotated[
        bool, typer.Option("--verdicts", help="Also the rows of cmdana.log that are not benign.")
    ] = False,
    incident: Annotated[str, typer.Option(help="Only this incident, by its id in the notices.")] = "",
    host: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Only what names it; a network counts.")
    ] = None,
    note: Annotated[
        str | None, typer.Option("--type", metavar="TYPE", help="Only this type, such as Anomalous_Host.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only from this time on (ISO 8601, UTC).")
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only before this time (ISO 8601, UTC).")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Then wait for new ones, until interrupted.")
    ] = False,
    remember: Annotated[
        Path | None, typer.Option("--remember", help="File that knows what was sent: only what is new goes.")
    ] = None,
    key: Annotated[
        Path | None, typer.Option("--key", help="Key file that requests of http(s):// are signed with.")
    ] = None,
    new_key: Annotated[bool, typer.Option("--new-key", help="Make the key file first.")] = False,
    ca_file: Annotated[
        Path | None,
        typer.Option("--ca-file", help="PEM file that the receiver's certificate is checked with."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Hand the notices to other programs, in their format: to a file, to syslog, to a webhook."""
    from cmdana_plugin import keyfile
    from cmdana_plugin.analyst import alerts as reading
    from cmdana_plugin.outputs import Order
    from cmdana_plugin.outputs import export as send
    from feature_extractors import CmdanaError

    if key is not None and not to.startswith(("http://", "https://")):
        raise CmdanaError("--key: signs requests of http:// and https:// only")
    if as_json and to == "-":
        raise CmdanaError("--json: says what was sent, and the events are on stdout; choose another --to")
    if new_key:
        if key is None:
            raise CmdanaError("--new-key: needs --key, which says where")
        keyfile.new_key(key)
    order = Order(
        logs or [Path()], form, to,
        reading.Filter.parse(host=host, note=note, since=since, until=until),
        verdicts, incident, remember, keyfile.read_key(key) if key else None, ca_file, force,
    )  # fmt: skip
    counts = send(order, notify, follow=follow)
    if as_json:
        print(json.dumps({"to": to, "format": form, **asdict(counts)}))
    elif to != "-":
        notify(f"{to}: {counts.words()}")
