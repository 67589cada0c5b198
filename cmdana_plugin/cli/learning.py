"""Commands that make and measure models: train, calibrate, evaluate."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from cmdana_plugin.cli.judging import load_judge
from cmdana_plugin.cli.options import (
    ConfigOption,
    JsonOption,
    ModelOption,
    app,
    configured,
    notify,
    refuse_to_overwrite,
    say_if_it_compiles,
)


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
    detector: Annotated[
        str | None,
        typer.Option(
            "--detector",
            help="dependency-network, cross-modal, residual-attention, residual-attention-fields or "
            "spatio-temporal; without it [model] detector.",
        ),
    ] = None,
    hardening: Annotated[
        str,
        typer.Option(
            "--hardening",
            help="With --labels: plain, drawn, searched or consistent; what trees learn of an attacker's changes.",
        ),
    ] = "plain",
    rehearsals: Annotated[
        str,
        typer.Option(
            "--rehearsals",
            help="plain, drawn or searched; how the intrusions that behaviour is rehearsed with hide.",
        ),
    ] = "plain",
    further_logs: Annotated[
        bool,
        typer.Option(
            "--further-logs",
            help="Learn quic, ldap, postgresql, redis, x509, files and weird logs too; Zeek is then asked for them.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of all random choices.")] = 0,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the traffic.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the checkpoint.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Learn normal from captures, Zeek logs or a running Zeek, and write a checkpoint with its calibration."""
    if bool(sources) == (live is not None):
        raise typer.BadParameter("expected captures or folders of logs, or --live TIME")
    used = configured(config)
    settings = used.config
    refuse_to_overwrite(out, force)
    from cmdana_plugin.analyst import terminal as show
    from cmdana_plugin.replay import settled_for_extraction
    from cmdana_plugin.training import checked, checked_way
    from cmdana_plugin.training import sources as learn

    say_if_it_compiles("steps")
    names = list(sources or ())
    spool = None
    with show.steps(quiet=as_json) as progress:
        # What is wrong with the other arguments is said before a day is spent on learning.
        learn.networks(exclude or ())
        start = learn.initial(init)
        learn.chosen(detector, settings, start)
        checked(hardening)
        checked_way(rehearsals)
        if live is not None:
            from cmdana_plugin.training import live_phase as learning

            learning.duration(live)
            spool = learning.spool_of(out)
            judging = Path(init) if init and init != "shipped" else None
            learning.learn(
                settings, lambda: load_judge(settings, judging), spool, live, progress, notify, further_logs
            )
            names = [str(spool)]
        with settled_for_extraction():
            report = learn.train(
                names,
                out,
                settings,
                labels=labels,
                exclude=exclude or (),
                init=start,
                seed=seed,
                epochs=epochs,
                detector=detector,
                hardening=hardening,
                rehearsals=rehearsals,
                further_logs=further_logs,
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
        list[str], typer.Argument(help="Captures or folders of Zeek logs of later, benign traffic.")
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
    used = configured(config)
    settings = used.config
    refuse_to_overwrite(out, force)
    from cmdana_plugin.analyst import terminal as show
    from cmdana_plugin.replay import settled_for_extraction
    from cmdana_plugin.training import sources as learn

    path = model or (Path(settings.model.path) if settings.model.path else None)
    with show.steps(quiet=as_json) as progress, settled_for_extraction():
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
    days: Annotated[
        Path | None,
        typer.Option(
            "--days",
            help="Plan (CSV: recording, network, part, use of choosing/unseen, scenario): whole days, incidents found "
            "against false ones, beside peers.",
        ),
    ] = None,
    attacker: Annotated[
        bool, typer.Option("--attacker", help="Perturb the attacks of FOLDER as their originator could.")
    ] = False,
    attack: Annotated[
        bool,
        typer.Option(
            "--attack",
            help="Search for every attack of FOLDER what hides it, and at which cost; [model] path names the victim.",
        ),
    ] = False,
    tries: Annotated[
        int | None, typer.Option(min=2, help="Plans of --attack and --hardening for each attack.")
    ] = None,
    families: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Attacks of so many families, drawn (--attack, --hardening, the drip of --poison); default: all.",
        ),
    ] = None,
    hardening: Annotated[
        list[str] | None,
        typer.Option(
            "--hardening",
            metavar="NAME",
            help="Adversarial training on FOLDER, its gain and price: plain, drawn, searched, consistent or all; "
            "repeatable.",
        ),
    ] = None,
    poison: Annotated[
        bool, typer.Option("--poison", help="Poison what is learned of FOLDER, and the past of its attacks.")
    ] = False,
    collections: Annotated[
        bool,
        typer.Option(
            "--collections",
            help="Judge each collection of FOLDER (captures.csv, column set) by what learned from all others.",
        ),
    ] = False,
    detectors: Annotated[
        list[str] | None,
        typer.Option(
            "--detectors",
            metavar="NAME",
            help="Detectors to put beside each other on FOLDER: all, or by name; repeatable.",
        ),
    ] = None,
    missing: Annotated[
        bool,
        typer.Option("--missing", help="Take packets and logs away from captures: learned with and without."),
    ] = False,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1, help="Passes of each training (--collections, --missing, --heads, --hardening, --poison)."
        ),
    ] = None,
    heads: Annotated[
        bool, typer.Option("--heads", help="Judge heads that name classes: on --tabular, and on FOLDER.")
    ] = False,
    balancing: Annotated[
        list[str] | None,
        typer.Option(
            "--balancing",
            metavar="NAME",
            help="Of --heads: none, weights, sampler, focal or logit-adjustment; repeatable.",
        ),
    ] = None,
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

    On whole days of networks (--days), on labelled captures by their fixed split (FOLDER), on flat tables, or on one's
    own network squeezed; each run replaces its section of the findings (of days: each network's) and leaves the others.
    """
    used = configured(config)
    settings = used.config
    from cmdana_plugin.analyst import terminal as show
    from cmdana_plugin.evaluation import command as measure
    from cmdana_plugin.replay import settled_for_extraction

    with show.steps(quiet=as_json) as progress, settled_for_extraction():
        words = measure.measure(
            folder,
            labels,
            out,
            settings,
            tables=tables,
            plan=recordings,
            days=days,
            attacker=attacker,
            attack=attack,
            tries=tries,
            families=families,
            hardening=hardening,
            poison=poison,
            collections=collections,
            heads=heads,
            missing=missing,
            detectors=detectors,
            balancing=balancing,
            epochs=epochs,
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
