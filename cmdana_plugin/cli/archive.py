"""Commands over what lasts: archives of logs that are hunted through, and what was learned of a site."""

from __future__ import annotations

import json
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cmdana_plugin.cli.judging import judge_of, load_detector_of, schema_of_model, state_path
from cmdana_plugin.cli.options import (
    ConfigOption,
    JsonOption,
    ModelOption,
    StateOption,
    app,
    configured,
    notify,
    refuse_to_overwrite,
    say_if_it_compiles,
)
from feature_extractors import CmdanaError

if TYPE_CHECKING:
    from cmdana_plugin import statefile
    from cmdana_plugin.config import Config
    from cmdana_plugin.decision import Judge
    from cmdana_plugin.replay import Loaded, Turn


@app.command(
    short_help="Judge archives of Zeek logs, as replay judges captures.",
    epilog="Example: cmdana hunt /var/log/zeek/2026-11-* --out hunted/",
)
def hunt(
    logs: Annotated[
        list[str],
        typer.Argument(help="Zeek logs of any dialect, and folders of them: days, rotated, packed."),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for cmdana.log and notice.log.")] = Path(),
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only what ended from this time on (ISO 8601, UTC).")
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only what ended before this time (ISO 8601, UTC).")
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", min=1, max=256, help="Processes, or actors of Ray, that score.")
    ] = 1,
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray",
            metavar="ADDRESS",
            help="Score on a Ray cluster: where its head listens, auto for this machine's, local to begin one.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite logs that are there, and begin anew.")
    ] = False,
    with_state: StateOption = False,
    model: ModelOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Judge archives of Zeek logs: write cmdana.log and notice.log, and print the notices.

    A hunt that was stopped goes on where it was when the same command is given again.
    """
    used = configured(config)
    settings = used.config
    say_if_it_compiles("tracker")
    from cmdana_plugin.analyst import terminal as show
    from cmdana_plugin.logs import moments, print_passed_over
    from cmdana_plugin.replay import RayScoring, ScoringProcesses, Wanted
    from cmdana_plugin.replay import embedded as offline
    from cmdana_plugin.replay import hunt as hunted
    from feature_extractors.readers import PassedOver

    wanted = Wanted(
        logs,
        moments.parsed("--since", since) if since else float("-inf"),
        moments.parsed("--until", until) if until else float("inf"),
        schema_of_model(settings, model),
    )
    load = partial(_loaded, settings, model, 1 if ray or workers > 1 else 0)
    with ExitStack() as stack:
        stack.enter_context(offline.prepared(out, force))
        kept = stack.enter_context(state_path(settings, with_state))
        known = _known(kept) if kept is not None else None
        scoring = None
        if ray is not None:
            cluster = RayScoring(ray, workers)
            stack.callback(cluster.close)
            scoring = ScoringProcesses(load, workers, cluster)
        elif workers > 1:
            scoring = ScoringProcesses(load, workers)
        if scoring is not None:
            stack.callback(scoring.close)
        progress = stack.enter_context(show.hunting(quiet=as_json))
        done, final = hunted(
            wanted, out, settings, load, judge_of=partial(_judge, settings), scoring=scoring, begin=known,
            force=force, every=settings.state.seconds, progress=progress, notify=notify,
        )  # fmt: skip
        if kept is not None:
            from cmdana_plugin import statefile

            statefile.write(kept, final)
    passed = PassedOver(done.passed)
    print_passed_over(passed)
    if as_json:
        told = {**show.summary_object(done.summary, out, None), "passed_over": passed.object()}
        print(json.dumps({**told, "configuration": used.object()}))
    else:
        show.summary(done.summary, out, None)


def _known(path: Path) -> tuple[Path, statefile.State] | None:
    """The state to begin with, if there is one. Raises `CmdanaError` for one that cannot be read."""
    from cmdana_plugin import statefile

    return (path, statefile.read(path)) if path.exists() else None


def _loaded(settings: Config, model: Path | None, threads: int, turn: Turn) -> Loaded:
    return load_detector_of(settings, model, own=turn.own, threads=threads)


def _judge(settings: Config, loaded: Loaded) -> Judge:
    return judge_of(loaded, settings)


@app.command(
    short_help="Look at what is known of the site, copy it, or put it together.",
    epilog="Example: cmdana state show /var/lib/cmdana",
)
def state(
    action: Annotated[
        Literal["show", "export", "merge"],
        typer.Argument(
            help="show what it is of and how large; export it to a file, checked; merge several into one."
        ),
    ],
    paths: Annotated[
        list[Path], typer.Argument(help="A state, or the folder that holds it; several to merge.")
    ],
    out: Annotated[Path | None, typer.Option("--out", help="File to write, for its owner alone.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what is known of the site: model, key, time, hosts, size; or copy it, to take it to another machine; or make
    one of what several detectors know.

    It is of use where the key of its hashes ([model] state_key) is, too.
    """
    from cmdana_plugin import statefile

    if len(paths) > 1 and action != "merge":
        raise CmdanaError(f"{action}: found {len(paths)} states; expected one")
    file = state_file(paths[0])
    known = statefile.read(file)
    if action != "show":
        if out is None:
            raise CmdanaError(f"{action}: needs --out FILE")
        refuse_to_overwrite(out, force)
        if action == "merge":
            from cmdana_plugin.replay import merged

            if len(paths) == 1:
                raise CmdanaError("merge: found one state; expected several")
            known, left = merged([known, *(statefile.read(state_file(path)) for path in paths[1:])])
            for line in left:
                notify(line)
        statefile.write(out, known)
    hosts = max((len(a) for name, a in known.arrays.items() if name.endswith(".hosts.at")), default=0)
    told = {**known.about, "bytes": known.bytes, "arrays": len(known.arrays), "hosts": hosts}
    told["file"] = str(file if out is None else out)
    if as_json:
        print(json.dumps(told))
        return
    from cmdana_plugin.analyst import printable

    for name, value in sorted(told.items()):
        print(f"{name:<14} {printable(str(value))}")


def state_file(path: Path) -> Path:
    from cmdana_plugin import statefile

    file = path / f"{statefile.NAME}{statefile.SUFFIX}" if path.is_dir() else path
    if not file.exists():
        raise CmdanaError(f"{file}: there is no state")
    return file
