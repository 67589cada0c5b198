"""Commands of the analyst, over logs that are there: read, picture, explain, label, share."""

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
    refuse_to_overwrite,
)
from feature_extractors import CmdanaError


@app.command(
    short_help="Read the notices as a table.",
    epilog="Example: cmdana alerts logs/ --host 10.0.0.0/8 --since 2026-11-22T06:00",
)
def alerts(
    logs: Annotated[
        list[Path] | None, typer.Argument(help="notice.log files or folders; default: here.")
    ] = None,
    host: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Only notices that name it; a network counts.")
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
    min_score: Annotated[
        float, typer.Option(min=0, max=1, help="Only connections with at least this score.")
    ] = 0.0,
    oddest: Annotated[
        int | None,
        typer.Option(
            min=1, max=10_000, metavar="N", help="Instead, the N connections highest below the threshold."
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for new notices.")] = False,
    form: FormatOption = "table",
    as_json: JsonOption = False,
) -> None:
    """Read the notices of notice.log as a table, TSV or JSON, rotated or not."""
    from cmdana_plugin.analyst import alerts as reading

    wanted = reading.Filter.parse(host=host, note=note, since=since, until=until, min_score=min_score)
    if oddest is not None:
        if follow or note is not None:
            raise CmdanaError(f"--oddest: goes without {'--follow' if follow else '--type'}")
        reading.show_oddest(logs or [Path()], wanted, oddest, form="json" if as_json else form)
        return
    reading.show_alerts(logs or [Path()], wanted, follow=follow, form="json" if as_json else form)


@app.command(
    short_help="Write a page with pictures: incidents, scores, the budget.",
    epilog="Example: cmdana report logs/ --out report.html",
)
def report(
    logs: Annotated[
        Path, typer.Argument(help="Folder that holds cmdana.log; rotated logs count too.")
    ] = Path(),
    out: Annotated[Path, typer.Option("--out", "-o", help="Page to write.")] = Path("report.html"),
    labels: Annotated[
        Path | None,
        typer.Option("--labels", help="labels.csv: adds the matrix of verdicts by what the labels say."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the page.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write one self-contained page: incidents, scores against the threshold, reliance, the budget used."""
    used = configured(config)
    settings = used.config
    refuse_to_overwrite(out, force)
    from cmdana_plugin.analyst import report as pages
    from cmdana_plugin.analyst import terminal as show
    from cmdana_plugin.analyst import units
    from cmdana_plugin.logs import print_passed_over, read_labels

    truth = read_labels(labels) if labels is not None else None
    with show.steps(quiet=as_json) as progress:
        seen = pages.gather(logs, progress)
    print_passed_over(seen.passed)
    said = truth.count(logs).said if truth is not None else None
    budget = settings.verdict.alerts_per_day
    pages.write(pages.render(seen, logs, budget, said), out)
    if as_json:
        print(json.dumps({**pages.summary_object(seen, out, budget), "configuration": used.object()}))
    else:
        print(
            f"{out}: {units.plural(seen.connections, 'connection')}, {units.plural(seen.notices, 'notice')}"
        )


@app.command(
    short_help="Say all that the logs know of one verdict.",
    epilog="Example: cmdana explain CHhAvVGS1DHFjwGM9 logs/",
)
def explain(
    uid: Annotated[str, typer.Argument(help="uid of a connection, from conn.log, cmdana.log or notice.log.")],
    logs: Annotated[Path, typer.Argument(help="Folder that holds cmdana.log and the other logs.")] = Path(),
    as_json: JsonOption = False,
) -> None:
    """Say all that the logs know of one verdict: reasons, reliance, its host's history, notices, other logs."""
    from cmdana_plugin.analyst import explain as explain_uid

    found = explain_uid.explain(uid, logs)
    if as_json:
        print(json.dumps(explain_uid.explanation_object(found)))
    else:
        explain_uid.show(found, logs)


@app.command(
    short_help="Keep what you know of a connection for the next training.",
    epilog="Example: cmdana label CHhAvVGS1DHFjwGM9 benign --logs logs/ --allow",
)
def label(
    uid: Annotated[str, typer.Argument(help="uid of the connection.")],
    word: Annotated[Literal["benign", "malicious", "unknown"], typer.Argument(help="What it was.")],
    logs: Annotated[Path, typer.Option("--logs", help="Folder that holds cmdana.log.")] = Path(),
    store: Annotated[Path, typer.Option("--store", help="Label file to keep, for `train --labels`.")] = Path(
        "labels.csv"
    ),
    family: Annotated[str, typer.Option(help="Kind of attack, for malicious ones.")] = "",
    allow: Annotated[
        bool,
        typer.Option("--allow", help="Also allow connections like it, in the operator's plugin.toml."),
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Keep what you know of a connection for the next training, and quiet connections like it if wanted."""
    if allow and word != "benign":
        raise CmdanaError(f"--allow: is for benign connections; this one is called {word}")
    if family and word != "malicious":
        raise CmdanaError(f"--family: is for malicious connections; this one is called {word}")
    from cmdana_plugin import config as configuration

    used = configured(config) if allow else None
    settings_file = config or configuration.to_write(used)
    from cmdana_plugin.analyst import label as feedback
    from cmdana_plugin.logs import print_passed_over
    from feature_extractors.readers import PassedOver

    passed = PassedOver()
    row = feedback.find(uid, logs, passed)
    print_passed_over(passed)
    before = feedback.store(row, word, store, family=family)
    entry = feedback.allow_entry(row)
    if allow:
        settings_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    added = feedback.allow(entry, settings_file) if allow else False
    if as_json:
        answer = {
            "uid": uid,
            "label": word,
            "before": before,
            "store": str(store),
            "allow": entry,
            "allowed": added,
            "configuration": str(settings_file) if allow else None,
        }
        print(json.dumps(answer))
        return
    was = f", was {before}" if before and before != word else ", as it was already" if before else ""
    print(f"{store}: {uid} is {word}{was}")
    if allow:
        print(f'{settings_file}: [verdict] allow {"now holds" if added else "holds already"} "{entry}"')
    elif word == "benign":
        print(
            f'to quiet all like it, add --allow, or put this into [verdict] allow of plugin.toml: "{entry}"'
        )


@app.command(
    short_help="Write logs and labels that can be shared.",
    epilog="Example: cmdana anonymise logs/ --key site.key --new-key --out to-share/",
)
def anonymise(
    logs: Annotated[Path, typer.Argument(help="Folder of Zeek logs and label files.")],
    key: Annotated[Path, typer.Option("--key", help="Key file; the same key makes the same addresses.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write, empty or new.")],
    new_key: Annotated[
        bool, typer.Option("--new-key", help="Make the key file first, readable by you only.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write logs and labels that can be shared: addresses by Crypto-PAn, names hashed, sentences left out."""
    from cmdana_plugin import keyfile
    from cmdana_plugin.analyst import anonymise as anonymous
    from cmdana_plugin.analyst import terminal as show

    if new_key:
        keyfile.new_key(key)
    with show.steps(quiet=as_json) as progress:
        done = anonymous.anonymise(logs, out, keyfile.read_key(key), progress)
    if as_json:
        print(json.dumps(anonymous.done_object(done, out)))
        return
    for name, rows in done.files.items():
        print(f"{out / name}: {rows:,} rows")
    for line in done.passed.lines():
        print(line)
    if done.not_logs:
        print(
            f"not copied, no Zeek log: {', '.join(done.not_logs[:20])}{' ...' if len(done.not_logs) > 20 else ''}"
        )
