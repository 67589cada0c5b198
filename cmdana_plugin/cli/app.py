"""The command line: `cmdana COMMAND`, each a thin layer over a typed function.

Nothing heavy is imported before a command needs it: torch comes in while a capture is already being read.
"""

from __future__ import annotations

import atexit
import errno
import importlib.metadata
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from cmdana_plugin import config as configuration
from cmdana_plugin import files
from feature_extractors import CmdanaError

if TYPE_CHECKING:
    from cmdana_plugin.config import Config
    from cmdana_plugin.decision import Judge

_held = ExitStack()  # until the command ends: what no other command may write in the meantime

app = typer.Typer(
    name="cmdana",
    help="Says which connections and hosts behave unlike the network's own normal, why, and how sure it is.",
    epilog="Exit status: 0 fine, 1 failed, 2 wrong usage. Start with `cmdana doctor` or `cmdana replay CAPTURE`.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
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


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="plugin.toml to use; else the user's, /etc/cmdana's, harmless parts of ./'s.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
ModelOption = Annotated[
    Path | None, typer.Option("--model", help="Checkpoint to use instead of [model] path.")
]


def load_judge(config: Config, model: Path | None = None, spare: Callable[[], bool] | None = None) -> Judge:
    """The judge for a configuration; imports torch. Raises `CmdanaError` for a model that cannot be used.

    `spare` says at any time whether there are cores beside the one that asks; without it there always are.
    """
    import torch

    from cmdana_plugin.decision import Judge
    from cmdana_plugin.detector import WithSiteHistory, load_detector, share_cores, share_of
    from cmdana_plugin.keyfile import state_salt

    share_cores()
    settings = config.model
    path = model or (Path(settings.path) if settings.path else None)
    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    threads = settings.threads or min(os.cpu_count() or 1, 2)
    salt = state_salt(settings.state_key)
    detector = load_detector(
        path, device=device, threads=threads, salt=salt, hosts=settings.max_hosts, spare=spare
    )
    if not settings.site_history:
        return Judge(detector, config)
    return Judge(WithSiteHistory(detector, salt, share_of(detector.checkpoint.weights)), config)


class Reload:
    """A configuration that is read anew on SIGHUP; one that cannot be used is told of, and the old one kept."""

    def __init__(self, settings: Config, path: Path | None, tell: Callable[[str], None]) -> None:
        self.settings = settings
        self._path = path
        self._tell = tell
        self._asked = False
        self._ready = False

    @contextmanager
    def on_sighup(self) -> Iterator[None]:
        before = signal.signal(signal.SIGHUP, self._ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGHUP, before)

    def wanted(self) -> bool:
        """Whether there is a new configuration to begin anew with."""
        if self._asked:
            self._asked = False
            try:
                self.settings = _configured(self._path, self._tell).config
                self._ready = True
            except CmdanaError as error:
                self._tell(f"SIGHUP: goes on as before: {error}")
        return self._ready

    def taken(self) -> bool:
        """Whether there was one, which is no longer new."""
        ready, self._ready = self._ready, False
        return ready

    def _ask(self, *_: object) -> None:
        self._asked = True


@app.command(
    short_help="Analyse captures: write Zeek's logs and print the notices.",
    epilog="Example: cmdana replay incident.pcap --out incident/",
)
def replay(
    captures: Annotated[
        list[str], typer.Argument(help="Captures (pcap, pcapng, gz), folders, or - for stdin.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the logs.")] = Path(),
    engine: Annotated[
        Literal["auto", "embedded", "zeek"] | None,
        typer.Option(help="What analyses the capture; auto is embedded."),
    ] = None,
    logs: Annotated[
        Literal["none", "conn", "all"] | None,
        typer.Option(help="Zeek's logs beside cmdana.log and notice.log; conn is conn.log alone."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite logs that are already there.")] = False,
    labels: Annotated[
        Path | None,
        typer.Option("--labels", help="labels.csv to count found attacks and false alarms against."),
    ] = None,
    model: ModelOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Analyse captures: write cmdana.log, notice.log and Zeek's logs, and print the notices."""
    used = _configured(config)
    settings = used.config
    if logs is not None:
        settings = settings.model_copy(update={"logs": settings.logs.model_copy(update={"streams": logs})})
    chosen = engine or settings.capture.engine
    _say_if_it_compiles("tracker")
    from cmdana_plugin.analyst import terminal as show
    from cmdana_plugin.replay import embedded as offline

    truth = None
    if labels is not None:
        from cmdana_plugin.logs import read_labels

        truth = read_labels(labels)
    with offline.prepared(out, force):
        if chosen == "zeek":
            from cmdana_plugin.endpoint import replay_through_zeek

            with show.progress(quiet=as_json) as progress:
                summary = replay_through_zeek(
                    captures, out, settings, lambda: load_judge(settings, model), progress
                )
        else:
            sources = offline.sources(captures)
            with show.progress(quiet=as_json) as progress:
                summary = offline.replay(
                    sources, out, settings, lambda spare: load_judge(settings, model, spare), progress
                )
    found = truth.count(out) if truth else None
    if as_json:
        print(json.dumps({**show.summary_object(summary, out, found), "configuration": used.object()}))
    else:
        show.summary(summary, out, found)


@app.command(
    short_help="Write the Zeek logs of captures, without judging them.",
    epilog="Example: cmdana convert incident.pcap --to json --out logs/",
)
def convert(
    captures: Annotated[
        list[str], typer.Argument(help="Captures (pcap, pcapng, gz), folders, or - for stdin.")
    ],
    to: Annotated[Literal["tsv", "json"], typer.Option("--to", help="Format of the logs.")] = "tsv",
    out: Annotated[Path, typer.Option("--out", help="Folder for the logs.")] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Overwrite logs that are already there.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write conn.log and every application's log of captures, as Zeek does; nothing is judged."""
    settings = _configured(config).config
    settings = settings.model_copy(
        update={"logs": settings.logs.model_copy(update={"format": to, "streams": "all"})}
    )
    _say_if_it_compiles("tracker")
    from cmdana_plugin.analyst import terminal as show
    from cmdana_plugin.replay import convert as write_logs
    from cmdana_plugin.replay import embedded as offline

    with offline.prepared(out, force), show.progress(quiet=as_json) as progress:
        summary = write_logs(offline.sources(captures), out, settings, progress)
    if as_json:
        print(json.dumps(show.converted_object(summary)))
    else:
        show.converted(summary)


@app.command(
    short_help="Judge a running Zeek's connections.",
    epilog="Example: cmdana run --config plugin.toml",
)
def run(
    model: ModelOption = None,
    config: ConfigOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Say what happens in JSON objects, one a line, on stdout.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No line of counts every minute.")] = False,
) -> None:
    """Judge a running Zeek's connections: connect, score, publish verdicts, reconnect.

    SIGTERM stops it cleanly; SIGHUP has it begin anew with configuration and model as they are then.
    """
    tell = _tell_json if as_json else _tell
    reload = Reload(_configured(config, tell).config, config, tell)
    from cmdana_plugin.endpoint import run as run_live

    _say_if_it_compiles("state")
    with reload.on_sighup():
        while True:
            settings = reload.settings
            load = partial(load_judge, settings, model)
            status = run_live(settings, load, until=reload.wanted, tell=tell, quiet=quiet)
            if not reload.taken():
                raise typer.Exit(status)


@app.command(
    short_help="Learn what is normal from captures, Zeek logs or a running Zeek.",
    epilog="Example: cmdana train --out site.safetensors logs/",
)
def train(
    out: Annotated[Path, typer.Option("--out", help="Checkpoint to write (.safetensors).")],
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help="Captures, folders of Zeek logs, or a learning phase's folder, of normal traffic."
        ),
    ] = None,
    live: Annotated[
        str | None,
        typer.Option(
            "--live",
            metavar="TIME",
            help="Learn from the running Zeek of [endpoint] for so long (24h, 90m, 7d); the same command resumes.",
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option("--labels", help="labels.csv for the supervised heads; unlabelled is normal."),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            "--exclude", help="Address or network that is not normal and teaches nothing; repeatable."
        ),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            "--init", help="Checkpoint to start from instead of at random; `shipped` is cmdana's own."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of all random choices.")] = 0,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the traffic.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the checkpoint.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Learn normal from captures, Zeek logs or a running Zeek, and write a checkpoint with its calibration."""
    if bool(sources) == (live is not None):
        raise typer.BadParameter("expected captures or folders of logs, or --live TIME")
    used = _configured(config)
    settings = used.config
    _refuse_to_overwrite(out, force)
    from cmdana_plugin.analyst import terminal as show
    from cmdana_plugin.training import sources as learn

    _say_if_it_compiles("training")
    names = list(sources or ())
    spool = None
    with show.steps(quiet=as_json) as progress:
        # What is wrong with the other arguments is said before a day is spent on learning.
        learn.networks(exclude or ())
        start = learn.initial(init)
        if live is not None:
            from cmdana_plugin.training import live_phase as learning

            learning.duration(live)
            spool = learning.spool_of(out)
            judging = Path(init) if init and init != "shipped" else None
            learning.learn(settings, lambda: load_judge(settings, judging), spool, live, progress, _tell)
            names = [str(spool)]
        report = learn.train(
            names,
            out,
            settings,
            labels=labels,
            exclude=exclude or (),
            init=start,
            seed=seed,
            epochs=epochs,
            progress=progress,
        )
    if spool is not None:
        from cmdana_plugin.training import Spool

        Spool(spool).delete()
    print(json.dumps({**report.object(), "configuration": used.object()}) if as_json else report.text())


@app.command(
    short_help="Measure a model's p-values on later traffic, for a budget.",
    epilog="Example: cmdana calibrate --out site.safetensors --alerts-per-day 20 later-logs/",
)
def calibrate(
    sources: Annotated[
        list[str], typer.Argument(help="Captures or folders of Zeek logs of later, calm traffic.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Checkpoint to write (.safetensors).")],
    alerts_per_day: Annotated[
        float | None, typer.Option(min=0.01, help="The budget; without it [verdict] alerts_per_day.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option("--labels", help="labels.csv, so that what is malicious is left out.")
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            "--exclude",
            metavar="ADDRESS",
            help="Address or network to leave out; repeatable.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the checkpoint.")] = False,
    model: ModelOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a model's p-values from traffic that it has not learned from, and say what the budget needs in plugin.toml.

    What is normal stays as it was learned; only how rare a score is, is measured anew.
    """
    used = _configured(config)
    settings = used.config
    _refuse_to_overwrite(out, force)
    from cmdana_plugin.analyst import terminal as show
    from cmdana_plugin.training import sources as learn

    path = model or (Path(settings.model.path) if settings.model.path else None)
    with show.steps(quiet=as_json) as progress:
        done = learn.calibrate(
            sources, path, out, settings, labels=labels, exclude=exclude or (), progress=progress
        )
    budget = alerts_per_day or settings.verdict.alerts_per_day
    # Less than an hour, or hours with next to nothing in them, say little about a day.
    measured = round(done.connections / max(done.hours, 1.0) * 24)
    per_day = measured if measured >= 100 * budget else None
    if as_json:
        more = {"alerts_per_day": budget, "connections_per_day": per_day, "configuration": used.object()}
        print(json.dumps({**done.object(), **more}))
        return
    print(
        f"calibrated on {done.connections:,} connections over {done.hours:.1f} hours; for the budget, put into "
        f"plugin.toml:\n\n[model]\npath = {json.dumps(str(out))}\n\n[verdict]\nalerts_per_day = {budget:g}"
    )
    if per_day:
        print(f"connections_per_day = {per_day}")
    else:
        print(
            "# too little to say what a day brings: set connections_per_day to the rows of a day's conn.log"
        )
    for warning in done.warnings():
        print(f"beware: {warning}", file=sys.stderr)


@app.command(
    short_help="Measure the detector and baselines on labelled captures.",
    epilog="Example: cmdana evaluate data/ --out findings.json --page docs/results.md --cache kept/",
)
def evaluate(
    out: Annotated[
        Path, typer.Option("--out", help="Findings to write (JSON), kept up to date as they come.")
    ],
    folder: Annotated[
        Path | None,
        typer.Argument(help="Folder with captures/ and captures.csv (columns capture and split)."),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option("--labels", help="labels.csv(.xz); default: the one in FOLDER.")
    ] = None,
    tables: Annotated[
        Path | None, typer.Option("--tabular", help="Folder with nsl_kdd/ or unsw_nb15/: judge flat tables.")
    ] = None,
    recordings: Annotated[
        Path | None,
        typer.Option(
            "--recordings",
            help="Plan (CSV: recording, network, part of train/calibrate/later/test, begin, end): judge one's own "
            "network; FOLDER then lends labels of other networks.",
        ),
    ] = None,
    attacker: Annotated[
        bool, typer.Option("--attacker", help="Perturb the attacks of FOLDER as their originator could.")
    ] = False,
    page: Annotated[
        Path | None, typer.Option("--page", help="Page whose measured part to rewrite with the findings.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of the detector and of each baseline.")] = 5,
    variant_seeds: Annotated[int, typer.Option(min=1, help="Seeds of each ablation.")] = 2,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="NAME", help="Only these detectors and ablations, by name."),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option("--cache", help="Folder that keeps what captures hold and what detectors made of them."),
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure the detector, its ablations and the baselines, and write the page of results.

    On labelled captures by their fixed split (FOLDER), on flat tables, or on one's own network; each run replaces its
    section of the findings and leaves the others.
    """
    used = _configured(config)
    settings = used.config
    from cmdana_plugin.analyst import terminal as show
    from cmdana_plugin.evaluation import command as measure

    with show.steps(quiet=as_json) as progress:
        words = measure.measure(
            folder,
            labels,
            out,
            settings,
            tables=tables,
            plan=recordings,
            attacker=attacker,
            page=page,
            seeds=seeds,
            variant_seeds=variant_seeds,
            only=only,
            cache=cache,
            progress=progress,
        )
    if as_json:
        print(json.dumps({**measure.load_findings(out), "configuration": used.object()}))
    else:
        print(words)


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
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for new notices.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Read the notices of notice.log as a table, TSV or JSON, rotated or not."""
    from cmdana_plugin.analyst import alerts as reading

    reading.show_alerts(
        logs or [Path()],
        reading.Filter.parse(host=host, note=note, since=since, until=until, min_score=min_score),
        follow=follow,
        as_json=as_json,
    )


@app.command(
    short_help="Write a page with pictures: incidents, scores, the budget.",
    epilog="Example: cmdana report logs/ --out report.html",
)
def report(
    logs: Annotated[
        Path, typer.Argument(help="Folder that holds cmdana.log; rotated logs count too.")
    ] = Path(),
    out: Annotated[Path, typer.Option("--out", "-o", help="Page to write.")] = Path("report.html"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite the page.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write one self-contained page: incidents, scores against the threshold, reliance, the budget used."""
    used = _configured(config)
    settings = used.config
    _refuse_to_overwrite(out, force)
    from cmdana_plugin.analyst import report as pages
    from cmdana_plugin.analyst import terminal as show

    with show.steps(quiet=as_json) as progress:
        seen = pages.gather(logs, progress)
    budget = settings.verdict.alerts_per_day
    pages.write(pages.render(seen, logs, budget), out)
    if as_json:
        print(json.dumps({**pages.summary_object(seen, out, budget), "configuration": used.object()}))
    else:
        print(
            f"{out}: {pages.plural(seen.connections, 'connection')}, {pages.plural(seen.notices, 'notice')}"
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
    used = _configured(config) if allow else None
    settings_file = config or configuration.to_write(used)
    from cmdana_plugin.analyst import label as feedback

    skipped: Counter[str] = Counter()
    row = feedback.find(uid, logs, skipped)
    for reason, n in skipped.items():
        print(f"cmdana: passed over {n:,} lines: {reason}", file=sys.stderr)
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
    for name, reasons in done.skipped.items():
        print(f"{name}: passed over " + ", ".join(f"{reason} {n:,}" for reason, n in reasons.items()))
    if done.not_logs:
        print(
            f"not copied, no Zeek log: {', '.join(done.not_logs[:20])}{' ...' if len(done.not_logs) > 20 else ''}"
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
    _say_if_it_compiles("tracker")  # the model judges a small capture
    for finding in examining.examine(config, model):
        findings.append(finding)
        if not as_json:
            show.finding(finding)
    if as_json:
        print(json.dumps([examining.finding_object(f) for f in findings]))
    raise typer.Exit(any(f.fails for f in findings))


def _configured(path: Path | None, tell: Callable[[str], None] | None = None) -> configuration.Found:
    """The configuration; where it is not the defaults, the operator is told which file it is from."""
    found = configuration.find(path)
    if words := found.words():
        (tell or _tell)(words)
    return found


def _say_if_it_compiles(module: str) -> None:
    """Says why a first run seems to stand still; `module` is one that the command compiles functions of."""
    from cmdana_plugin import compile_cache as compiled

    if not compiled.kept(module):
        _tell("compiling for this processor, once, for a minute or two; later runs start at once")


def _tell(line: str) -> None:
    print(f"cmdana: {line}", file=sys.stderr, flush=True)


def _tell_json(line: str) -> None:
    print(
        json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "said": line}), flush=True
    )


def _refuse_to_overwrite(path: Path, force: bool) -> None:
    if path.is_dir():
        raise CmdanaError(f"{path}: is a folder; expected a file to write")
    if path.exists() and not force:
        raise CmdanaError(f"{path}: is there already; choose another --out, or --force to overwrite")
    if not path.parent.is_dir():
        raise CmdanaError(f"{path}: the folder {path.parent} does not exist")
    _held.enter_context(files.alone(path.parent, path.name))


def entry() -> NoReturn:
    """Entry point: `main`, then gone at once.

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
    """Every foreseen fault is one line on stderr and exit status 1."""
    try:
        with _held:
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
