"""Commands that judge traffic: captures after the fact, and a running Zeek's connections."""

from __future__ import annotations

import importlib.metadata
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from cmdana_plugin.cli.options import (
    ConfigOption,
    JsonOption,
    ModelOption,
    StateOption,
    app,
    configured,
    notify,
    notify_json,
    say_if_it_compiles,
)
from feature_extractors import CmdanaError

if TYPE_CHECKING:
    from cmdana_plugin.config import Config
    from cmdana_plugin.decision import Judge, Judged
    from cmdana_plugin.detector import Own
    from cmdana_plugin.endpoint import Shard
    from cmdana_plugin.replay import Lasting, Loaded
    from feature_extractors import Windows


def load_detector_of(
    config: Config,
    model: Path | None = None,
    spare: Callable[[], bool] | None = None,
    own: Own | None = None,
    threads: int = 0,
) -> Loaded:
    """The detector for a configuration, of all connections or of those that are its `own`; imports torch for a GPU.

    Raises `CmdanaError` for a model that cannot be used. `spare` says at any time whether there are cores beside the
    one that asks; without it there always are.
    """

    from cmdana_plugin.behaviour import Bounds, mark_of, with_behaviour_beside
    from cmdana_plugin.detector import (
        WithSiteHistory,
        device_of,
        fingerprint,
        learned_here,
        load_detector,
        share_cores,
        share_of,
    )
    from cmdana_plugin.keyfile import evidence_key, state_salt
    from cmdana_plugin.replay import Loaded
    from feature_extractors.features import load_schema

    share_cores()
    settings = config.model
    salt = state_salt(settings.state_key)
    path = model_path(config, model)
    device = device_of(settings.device)
    threads = threads or settings.threads or min(os.cpu_count() or 1, 2)
    detector = load_detector(
        path, device=device, threads=threads, salt=salt, hosts=settings.max_hosts, spare=spare, own=own
    )
    if settings.detector not in ("auto", detector.checkpoint.detector):
        found = detector.checkpoint.detector
        raise CmdanaError(
            f"{path or 'the shipped model'}: is of detector {found}; [model] detector expects {settings.detector}"
        )
    judging = with_behaviour_beside(detector, detector.checkpoint, salt, Bounds(config.behaviour.max_hosts))
    if settings.site_history:
        judging = WithSiteHistory(judging, salt, share_of(detector.checkpoint.weights))
    about = {
        "schema": detector.schema_digest,
        "behaviour": load_schema().behaviour_digest,
        "key": f"{mark_of(salt):016x}",
        "network": fingerprint(detector.checkpoint),
        "model": detector.name,
        "cmdana": importlib.metadata.version("cmdana"),
    }
    checkpoint = detector.checkpoint
    return Loaded(
        judging, checkpoint.incidents, about, evidence_key(salt), at_home=learned_here(checkpoint.weights)
    )


def model_path(config: Config, model: Path | None) -> Path | None:
    """The file of the model that judges: the one given, the promoted, that of the configuration; None: the shipped."""
    from cmdana_plugin.keyfile import state_salt

    salt = state_salt(config.model.state_key)
    return model or _promoted(config, salt) or (Path(config.model.path) if config.model.path else None)


def schema_of_model(config: Config, model: Path | None) -> str:
    """The digest of the schema by which windows are encoded for the model, without loading it; "" for the shipped."""
    from cmdana_plugin.detector import schema_digest

    return schema_digest(model_path(config, model))


def _promoted(config: Config, salt: int) -> Path | None:
    """The model that was promoted to judge the site, if there is one. Raises `CmdanaError`."""
    if config.adaptation.mode != "shadow" or not config.state.folder:
        return None
    from cmdana_plugin.training import Lineage

    return Lineage(Path(config.state.folder), salt).model


def load_judge(config: Config, model: Path | None = None, spare: Callable[[], bool] | None = None) -> Judge:
    """The judge for a configuration; else as `load_detector_of`."""
    return judge_of(load_detector_of(config, model, spare), config)


def judge_of(loaded: Loaded, config: Config) -> Judge:
    """The judge of a loaded detector."""
    from cmdana_plugin.decision import Judge

    return Judge(loaded.detector, config, loaded.tails, adapting=True, key=loaded.key, at_home=loaded.at_home)


def have_compiled(judge: Judge) -> None:
    """Has all compiled that a judge needs, by connections of nothing; of no further use is the judge then."""
    from feature_extractors.features import blank, schema_of

    for _ in judge.judged([blank(8, schema_of(judge.detector.schema_digest))]):
        pass


def load_with_origin(
    config: Config, model: Path | None = None, spare: Callable[[], bool] | None = None
) -> tuple[Judge, Mapping[str, str]]:
    """The judge as `load_judge`, and what a state has to agree with."""
    loaded = load_detector_of(config, model, spare)
    return judge_of(loaded, config), loaded.about


@contextmanager
def state_path(config: Config, wanted: bool) -> Iterator[Path | None]:
    """A context with the path of the state of `[state] folder`, which nobody else uses; None where it is not `wanted`.

    Raises `CmdanaError` where it is and there is no such folder.
    """
    if not wanted:
        yield None
        return
    if not config.state.folder:
        raise CmdanaError("--state: needs [state] folder in plugin.toml, which says where the state is kept")
    from cmdana_plugin.replay import held

    with held(Path(config.state.folder)) as path:
        yield path


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
    epilog="Example: cmdana replay incident.pcap",
)
def replay(
    captures: Annotated[
        list[str], typer.Argument(help="Captures (pcap, pcapng, gz), folders, or - for stdin.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the logs; else one named after the capture.")
    ] = None,
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
    state: StateOption = False,
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
    from feature_extractors.readers import refuse_early

    refuse_early(captures, settings.capture.reader)
    compiles = say_if_it_compiles("tracker")
    from cmdana_plugin.analyst import terminal as show
    from cmdana_plugin.replay import embedded as offline

    truth = None
    if labels is not None:
        from cmdana_plugin.logs import read_labels

        truth = read_labels(labels)
    out = out or offline.folder_for(captures)
    with offline.prepared(out, force), state_path(settings, state) as kept:
        lasting: list[Lasting] = []

        def load(spare: Callable[[], bool] | None = None) -> Judge:
            if compiles:
                have_compiled(
                    load_judge(settings, model)
                )  # while extraction compiles in a process of its own
            if kept is None:
                return load_judge(settings, model, spare)
            from cmdana_plugin.replay import Lasting

            origin = partial(load_with_origin, settings, model, spare)
            lasting.append(Lasting(kept, settings.state.seconds, origin, notify))
            return lasting[-1].begin()

        if chosen == "zeek":
            from cmdana_plugin.endpoint import replay_through_zeek

            with show.progress(quiet=as_json) as progress:
                summary = replay_through_zeek(captures, out, settings, load, progress)
        else:
            sources = offline.sources(captures)
            with show.progress(quiet=as_json) as progress:
                schema = schema_of_model(settings, model)
                summary = offline.replay(sources, out, settings, load, progress, schema)
        for one in lasting:
            one.close(summary.last)
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
    epilog="Example: cmdana run --follow /usr/local/zeek/logs/current --out verdicts/",
)
def run(
    follow: Annotated[
        Path | None,
        typer.Option(
            "--follow",
            metavar="FOLDER",
            help="Read the logs that Zeek writes there instead of talking to Zeek; needs --out.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for cmdana.log and notice.log, with --follow.")
    ] = None,
    from_start: Annotated[
        bool,
        typer.Option(
            "--from-start", help="With --follow: begin with what is in the logs, not with what comes."
        ),
    ] = False,
    model: ModelOption = None,
    config: ConfigOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Say what happens in JSON objects, one a line, on stdout.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No line of counts every minute.")] = False,
    shard: Annotated[
        str,
        typer.Option(
            "--shard", metavar="K/N", help="Judge the K-th of N shards, instead of [endpoint] shard."
        ),
    ] = "",
    stands_in: Annotated[
        int, typer.Option("--stands-in", hidden=True, help="The shard whose detector begins this one.")
    ] = 0,
) -> None:
    """Judge a running Zeek's connections: connect, score, publish verdicts, reconnect.

    SIGTERM stops it cleanly; SIGHUP has it begin anew with configuration and model as they are then.
    """
    if (follow is None) != (out is None) or (from_start and follow is None):
        raise typer.BadParameter("expected --follow FOLDER and --out FOLDER together, --from-start with them")
    if follow is not None and shard:
        raise typer.BadParameter(
            "--shard is for detectors that Zeek talks to; --follow reads the logs of all"
        )
    notify_line = notify_json if as_json else notify
    reload = Reload(configured(config, notify_line).config, config, notify_line)
    from cmdana_plugin.endpoint import run as run_live

    if follow is not None and out is not None:
        _follow(reload, follow, out, model, notify_line, from_start=from_start, quiet=quiet)
    say_if_it_compiles("history")
    with reload.on_sighup():
        while True:
            settings = _of_shard(reload.settings, shard)
            load = partial(load_judge, settings, model)
            said = _of(settings.endpoint.shard, notify_line)
            with ExitStack() as stack:
                lasting, over = None, reload.wanted
                keep, told = _quarantine(stack, settings, said)
                if settings.state.folder:
                    origin = partial(load_with_origin, settings, model)
                    begin = partial(_command, config, model, as_json, quiet)
                    lasting, over = _kept(stack, settings, origin, reload, begin, stands_in, said)
                status = run_live(
                    settings, load, until=over, notify=said, quiet=quiet, keep=keep, told=told,
                    lasting=lasting, stands_in=stands_in,
                )  # fmt: skip
            if not reload.taken():
                raise typer.Exit(status)


def _quarantine(
    stack: ExitStack, settings: Config, notify_line: Callable[[str], None]
) -> tuple[Callable[[Windows], None], Callable[[Judged], None]]:
    """What keeps connections for a shadow model, and what is told of their incidents; both do nothing else."""
    if settings.adaptation.mode != "shadow":
        return lambda _: None, lambda _: None
    if not settings.state.folder or settings.endpoint.shard:
        notify_line(
            '[adaptation] mode = "shadow": nothing is gathered for a shadow model: that needs [state] folder, and one '
            "detector for all originators"
        )
        return lambda _: None, lambda _: None
    from cmdana_plugin.training import Quarantine

    quarantine = Quarantine(Path(settings.state.folder), settings.learning.max_connections, notify_line)
    stack.callback(quarantine.close)
    return quarantine.keep, quarantine.look


def _of_shard(settings: Config, shard: str) -> Config:
    """The configuration of a shard, this one or the one that it names: a shard's budget is its part of the site's."""
    from cmdana_plugin.config import Endpoint
    from cmdana_plugin.endpoint import Shard

    try:
        endpoint = settings.endpoint
        own = Shard.parsed(Endpoint(shard=shard or endpoint.shard).shard)
    except ValueError:
        raise typer.BadParameter(
            f'--shard: found "{shard}"; expected such as 2/8, the second of eight'
        ) from None
    if own.of == 1:
        return settings
    budget = settings.verdict
    part = {
        "alerts_per_day": budget.alerts_per_day / own.of,
        "connections_per_day": max(budget.connections_per_day // own.of, 1),
    }
    return settings.model_copy(
        update={
            "endpoint": endpoint.model_copy(update={"shard": str(own)}),
            "verdict": budget.model_copy(update=part),
        }
    )


def _of(shard: str, notify_line: Callable[[str], None]) -> Callable[[str], None]:
    """Lines of a shard say so: of several processes they may come to one place."""
    return (lambda line: notify_line(f"shard {shard}: {line}")) if shard else notify_line


def _command(
    config: Path | None, model: Path | None, as_json: bool, quiet: bool, shard: Shard, own: Shard
) -> list[str]:
    """What stands in for a shard that is not our own."""
    words = [
        sys.executable,
        "-m",
        "cmdana_plugin.cli",
        "run",
        "--shard",
        str(shard),
        "--stands-in",
        str(own.number),
    ]
    words += [f"--config={config}"] if config is not None else []
    words += [f"--model={model}"] if model is not None else []
    return words + ["--json"] * as_json + ["--quiet"] * quiet


def _kept(
    stack: ExitStack,
    settings: Config,
    origin: Callable[[], tuple[Judge, Mapping[str, str]]],
    reload: Reload,
    command: Callable[[Shard, Shard], list[str]],
    stands_in: int,
    notify_line: Callable[[str], None],
) -> tuple[Lasting, Callable[[], bool]]:
    """The judge whose state is kept in `[state] folder`, and what says when it is over; beside it, in the `stack`, the
    processes that judge for other shards.
    """
    from cmdana_plugin import statefile
    from cmdana_plugin.endpoint import Shard, StandIns, is_wanted, own_state
    from cmdana_plugin.replay import Lasting

    folder, own = Path(settings.state.folder), Shard.parsed(settings.endpoint.shard)
    kept = stack.enter_context(own_state(folder, own, notify_line))
    seed = folder / f"{statefile.NAME}{statefile.SUFFIX}" if own.name else None
    lasting = Lasting(kept, settings.state.seconds, origin, notify_line, seed)
    if not own.name:
        return lasting, reload.wanted
    if stands_in:
        parent = os.getppid()
        return lasting, lambda: reload.wanted() or is_wanted(folder, own) or os.getppid() != parent
    endpoint = settings.endpoint
    others = StandIns(
        folder, own, endpoint.stand_in, endpoint.stand_in_seconds, lambda shard: command(shard, own), notify_line
    )  # fmt: skip
    stack.callback(others.close)

    def over() -> bool:
        others.look()
        return reload.wanted()

    return lasting, over


def _follow(
    reload: Reload,
    folder: Path,
    out: Path,
    model: Path | None,
    notify_line: Callable[[str], None],
    *,
    from_start: bool,
    quiet: bool,
) -> NoReturn:
    """Judges what Zeek writes to the logs in a folder, until it is stopped. Raises `CmdanaError`."""
    from cmdana_plugin import files
    from cmdana_plugin.endpoint import follow as run_beside
    from feature_extractors.readers import FollowedLogs

    if out.exists() and not out.is_dir():
        raise CmdanaError(f"{out}: is a file; --out needs a folder")
    if out.exists() and folder.exists() and out.samefile(folder):
        raise CmdanaError(f"{out}: is the folder that is followed; --out needs another one")
    out.mkdir(parents=True, exist_ok=True)
    logs = FollowedLogs(folder, from_start=from_start, wait=reload.settings.endpoint.log_seconds)
    say_if_it_compiles("history")
    with files.alone(out), reload.on_sighup():
        while True:
            settings = reload.settings
            load = partial(load_judge, settings, model)
            status = run_beside(
                settings, load, logs, out, until=reload.wanted, notify=notify_line, quiet=quiet
            )
            if not reload.taken():
                raise typer.Exit(status)
