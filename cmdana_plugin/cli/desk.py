"""Commands of the analyst's desk: the queue of incidents, and what is decided about them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from cmdana_plugin.cli.options import (
    ConfigOption,
    FormatOption,
    JsonOption,
    app,
    configured,
    notify,
    notify_json,
)
from feature_extractors import CmdanaError, RecordError

StoreOption = Annotated[
    Path | None, typer.Option("--store", help="File of decisions; else incidents.sqlite beside the logs.")
]
_FOLDER = typer.Argument(help="Folder that holds notice.log, cmdana.log and conn.log.")


@app.command(
    short_help="The queue of incidents, most urgent first.",
    epilog="Example: cmdana incidents logs/ --host 10.0.0.0/8 --since 2026-11-22",
)
def incidents(
    logs: Annotated[Path, _FOLDER] = Path(),
    state: Annotated[
        str,
        typer.Option(
            metavar="STATE", help="open, acknowledged, benign, malicious, known, closed, all; else open ones."
        ),
    ] = "",
    host: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Only incidents that name it; a network counts.")
    ] = None,
    kind: Annotated[
        str | None, typer.Option(metavar="KIND", help="Only of this kind, such as scan, or type of notice.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only what lasted past this time (ISO 8601, UTC).")
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only what began before it (ISO 8601, UTC).")
    ] = None,
    ahead: Annotated[
        bool, typer.Option("--ahead", help="Only those within the budget: ten a day at most.")
    ] = False,
    most: Annotated[int, typer.Option(min=1, max=100_000, help="So many at most.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for what comes.")] = False,
    store: StoreOption = None,
    form: FormatOption = "table",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """The queue of incidents by evidence and stake; those that the day's budget has room for come first."""
    settings = configured(config).config
    from cmdana_plugin.desk import NAME, Store, Wanted, clients_of, queue, read_incidents, require_logs, table
    from cmdana_plugin.logs import print_passed_over

    wanted = Wanted.parse(state, host, kind, since, until, ahead)
    form = "json" if as_json else form
    if not logs.exists():
        raise RecordError(f"{logs}: does not exist; expected a folder that holds a notice.log")
    found = read_incidents([logs])
    if not found.of and not found.passed.read and not follow:
        require_logs(logs)
    kept = Store(store or (logs if logs.is_dir() else logs.parent) / NAME)
    hosts = [h for i in found.of.values() for h in (*i.actors, *i.targets)]
    clients = clients_of(logs, list(dict.fromkeys(hosts)), found.passed) if logs.is_dir() else {}
    print_passed_over(found.passed)
    budget = settings.verdict.alerts_per_day
    entries = queue(list(found.of.values()), kept.decisions(), clients, budget)
    try:
        table.show(entries, wanted, form, most, budget, logs)
        if follow:
            table.follow(logs, found, wanted, form, kept, budget)
    except KeyboardInterrupt:
        if not follow:  # else the way to end it
            raise


@app.command(
    short_help="Decide about an incident: acknowledge it, or close it.",
    epilog="Example: cmdana decide 10545af1b19d known logs/ --note scanner --allow behaviour --until 2026-12-31",
)
def decide(
    incident: Annotated[
        str, typer.Argument(help="Id of the incident, or its beginning, from `cmdana incidents`.")
    ],
    word: Annotated[
        Literal["open", "acknowledged", "benign", "malicious", "known"],
        typer.Argument(help="What it is; the last three close it."),
    ],
    logs: Annotated[Path, _FOLDER] = Path(),
    note: Annotated[str, typer.Option(help="Why, in a sentence.")] = "",
    allow: Annotated[
        Literal["host", "pair", "behaviour"] | None,
        typer.Option("--allow", help="Also allow it: the host, its pairs, or the host with these services."),
    ] = None,
    until: Annotated[
        str, typer.Option("--until", metavar="DAY", help="Last day on which it is allowed, as 2026-12-31.")
    ] = "",
    labels: Annotated[
        Path, typer.Option("--labels", help="Label file to keep, for `train --labels`.")
    ] = Path("labels.csv"),
    store: StoreOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Decide about an incident; its connections are labelled for the next training, and allowed if wanted."""
    if allow and word not in ("benign", "known"):
        raise CmdanaError(f"--allow: is for what is benign or known; this one is called {word}")
    if until and not allow:
        raise CmdanaError("--until: goes with --allow")
    from cmdana_plugin import config as configuration

    used = configured(config) if allow else None
    settings_file = config or configuration.to_write(used)
    from cmdana_plugin.desk import CLOSED, NAME, OPEN, Store, one, read_incidents
    from cmdana_plugin.desk import decide as following
    from feature_extractors.readers import PassedOver

    found = read_incidents([logs])
    of = one(found.of, incident)
    passed = PassedOver()
    entries = following.allowed(of, allow, until, logs, settings_file, passed) if allow else []
    kept = Store(store or logs / NAME)
    before = kept.decisions().get(of.id, OPEN)
    closes = word in CLOSED or (word == "open" and before.closed)
    labelled, more = following.learned(of, word, logs, labels, passed) if closes else (0, 0)
    kept.decide(of.id, word, note, of.connections)
    if as_json:
        print(
            json.dumps({
                "incident": of.id, "state": word, "before": before.state, "note": note, "labelled": labelled,
                "not_labelled": more, "labels": str(labels) if labelled else None, "allow": entries,
                "configuration": str(settings_file) if entries else None,
            })
        )  # fmt: skip
        return
    from cmdana_plugin.analyst import printable, units

    print(f"{printable(of.id, 64)} is {word}{f', was {before.state}' if before.state != word else ''}")
    if labelled:
        print(f"{labels}: {units.plural(labelled, 'connection')} labelled for the next training")
    if more:
        notify(f"{more:,} connections more than are labelled at once are not")
    for entry in entries:
        print(f'{settings_file}: [verdict] allow holds "{entry}"')


@app.command(
    short_help="A live page over the logs and the queue, on this machine.",
    epilog="Example: cmdana serve logs/",
)
def serve(
    logs: Annotated[Path, _FOLDER] = Path(),
    write: Annotated[bool, typer.Option("--write", help="Let the page decide about incidents.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 is any.")] = 8765,
    bind: Annotated[str, typer.Option(metavar="ADDRESS", help="Address to listen on.")] = "127.0.0.1",
    name: Annotated[
        list[str] | None,
        typer.Option(
            "--name", metavar="HOST[:PORT]", help="Another name that browsers reach it by; repeatable."
        ),
    ] = None,
    rows: Annotated[
        int, typer.Option(min=100_000, max=20_000_000, help="Verdicts held in memory, 90 bytes each.")
    ] = 2_000_000,
    labels: Annotated[Path, typer.Option("--labels", help="Label file to keep with --write.")] = Path(
        "labels.csv"
    ),
    store: StoreOption = None,
    config: ConfigOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Say where it is in JSON objects, one a line, on stdout.")
    ] = False,
) -> None:
    """A live page over the logs and the queue: on loopback, for whoever has the address with its token."""
    say = notify_json if as_json else notify
    settings = configured(config, say).config
    if not logs.is_dir():
        raise RecordError(f"{logs}: is no folder; expected one that holds, or will hold, a notice.log")
    try:
        from cmdana_plugin.desk import serve as run
    except ImportError as error:
        missing = (error.name or "what it needs").partition(".")[0]
        raise CmdanaError(f"{missing} is not installed: pip install 'cmdana[serve]'") from None
    from cmdana_plugin.desk import NAME

    run(
        logs, settings, store=store or logs / NAME, labels=labels, host=bind, port=port, names=name or (),
        write=write, rows=rows, notify=say,
    )  # fmt: skip
