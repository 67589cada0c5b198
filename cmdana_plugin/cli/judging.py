"""Commands that judge traffic: captures after the fact, and a running Zeek's connections."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cmdana_plugin.cli.options import (
    ConfigOption,
    JsonOption,
    ModelOption,
    app,
    configured,
    notify,
    notify_json,
    say_if_it_compiles,
)
from feature_extractors import CmdanaError

if TYPE_CHECKING:
    from cmdana_plugin.config import Config
    from cmdana_plugin.decision import Judge


def load_judge(config: Config, model: Path | None = None, spare: Callable[[], bool] | None = None) -> Judge:
    """The judge for a configuration; imports torch. Raises `CmdanaError` for a model that cannot be used.

    `spare` says at any time whether there are cores beside the one that asks; without it there always are.
    """
    import torch

    from cmdana_plugin.behaviour import Bounds, with_behaviour_beside
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
    judging = with_behaviour_beside(detector, detector.checkpoint, salt, Bounds(config.behaviour.max_hosts))
    if settings.site_history:
        judging = WithSiteHistory(judging, salt, share_of(detector.checkpoint.weights))
    return Judge(judging, config, detector.checkpoint.incidents)


class Reload:
    """A configuration that is read anew on SIGHUP; one that cannot be used is reported, and the old one kept."""

    def __init__(self, settings: Config, path: Path | None, notify: Callable[[str], None]) -> None:
        self.settings = settings
        self._path = path
        self._notify = notify
        self._asked = False
        self._ready = False

    @contextmanager
    def on_sighup(self) -> Iterator[None]:
        """A context in which SIGHUP reads the configuration anew; the earlier handler comes back at its end."""
        before = signal.signal(signal.SIGHUP, self._ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGHUP, before)

    def wanted(self) -> bool:
        """Whether a new configuration has been read and not taken yet."""
        if self._asked:
            self._asked = False
            try:
                self.settings = configured(self._path, self._notify).config
                self._ready = True
            except CmdanaError as error:
                self._notify(f"SIGHUP: goes on as before: {error}")
        return self._ready

    def taken(self) -> bool:
        """Whether a new configuration had been read; it counts as taken from now on."""
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
    used = configured(config)
    settings = used.config
    if logs is not None:
        settings = settings.model_copy(update={"logs": settings.logs.model_copy(update={"streams": logs})})
    chosen = engine or settings.capture.engine
    say_if_it_compiles("tracker")
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
    short_help="Write Zeek logs of captures, or of other logs, without judging.",
    epilog="Example: cmdana convert incident.pcap --to json --out logs/",
)
def convert(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="CAPTURES_OR_LOGS",
            help="Captures (pcap, pcapng, gz), Zeek logs, folders, or - for stdin.",
        ),
    ],
    to: Annotated[
        Literal["tsv", "json", "parquet"], typer.Option("--to", help="Format of the logs.")
    ] = "tsv",
    out: Annotated[Path, typer.Option("--out", help="Folder for the logs.")] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Overwrite logs that are already there.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write conn.log and every application's log of captures, as Zeek does; or write logs anew, one for each stream."""
    settings = configured(config).config
    from cmdana_plugin.analyst import terminal as show
    from cmdana_plugin.replay import captures_or_logs
    from cmdana_plugin.replay import convert as write_logs
    from cmdana_plugin.replay import embedded as offline

    captures, logs = captures_or_logs(what)
    if logs:
        from cmdana_plugin.logs import print_passed_over, rewrite

        with offline.prepared(out, force), show.steps(quiet=as_json) as steps:
            done = rewrite(logs, out, to, steps, over=force)
        for line in done.refused:
            notify(line)
        print_passed_over(done.passed)
        if as_json:
            print(json.dumps(show.rewritten_object(done)))
        else:
            show.rewritten(done)
        return
    say_if_it_compiles("tracker")
    with offline.prepared(out, force), show.progress(quiet=as_json) as progress:
        summary = write_logs(captures, out, settings, progress, to=to)
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
    notify_line = notify_json if as_json else notify
    reload = Reload(configured(config, notify_line).config, config, notify_line)
    from cmdana_plugin.endpoint import run as run_live

    say_if_it_compiles("state")
    with reload.on_sighup():
        while True:
            settings = reload.settings
            load = partial(load_judge, settings, model)
            status = run_live(settings, load, until=reload.wanted, notify=notify_line, quiet=quiet)
            if not reload.taken():
                raise typer.Exit(status)
