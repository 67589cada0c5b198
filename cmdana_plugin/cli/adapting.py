"""What has adapted itself to a site: to look at it, to go a step on, to take a step back."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cmdana_plugin.cli.archive import state_file
from cmdana_plugin.cli.judging import load_detector_of
from cmdana_plugin.cli.options import ConfigOption, JsonOption, app, configured, say_if_it_compiles
from feature_extractors import CmdanaError

if TYPE_CHECKING:
    from cmdana_plugin.config import Config
    from cmdana_plugin.training import Entry, Lineage

_SHOWN = 12  # steps, the latest


@app.command(
    short_help="Look at what has been adapted to the site, go on, or take it back.",
    epilog="Example: cmdana adapt status /var/lib/cmdana",
)
def adapt(
    action: Annotated[
        Literal["status", "propose", "promote", "roll-back"],
        typer.Argument(
            help="status; propose a shadow model of the quarantined days, tried beside the present one; promote it if "
            "it was found to be no worse; roll-back to what was before."
        ),
    ],
    folder: Annotated[Path, typer.Argument(help="The folder of the state, as in [state] folder.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what p-values have come to mean on the site's own traffic and which models have judged it, and change that.

    roll-back takes back the latest promotion of a model, or where there is none the calibration. A running detector
    takes another model at SIGHUP.
    """
    settings = configured(config).config
    done: Entry | None = None
    if action == "propose":
        done = _propose(settings, folder, quiet=as_json)
    elif action == "promote":
        done = _lineage(settings, folder).promote()
    elif action == "roll-back":
        done = _lineage(settings, folder).roll_back() if _has_models(folder) else None
        if done is None:
            _take_back_calibration(folder)
    if as_json:
        print(json.dumps({"action": action, **_told(settings, folder)}))
    elif done is not None:
        print(_words(done))
    else:
        _show(_told(settings, folder))
    if action == "promote" and done is not None and done.refusal:
        raise typer.Exit(1)


def _lineage(settings: Config, folder: Path) -> Lineage:
    from cmdana_plugin.keyfile import state_salt
    from cmdana_plugin.training import Lineage

    return Lineage(folder, state_salt(settings.model.state_key))


def _has_models(folder: Path) -> bool:
    """Whether the site has a history of models: only that needs the site's key, which is else made."""
    return (folder / "models").is_dir()


def _propose(settings: Config, folder: Path, quiet: bool) -> Entry:
    from cmdana_plugin import files
    from cmdana_plugin.analyst import terminal as show
    from cmdana_plugin.evaluation import shadow
    from cmdana_plugin.replay import settled_for_extraction

    if not folder.is_dir():
        raise CmdanaError(f"{folder}: there is no such folder; expected that of [state] folder")
    present = _lineage(settings, folder).model or (Path(settings.model.path) if settings.model.path else None)
    with files.alone(folder, "adapt"):
        found = shadow.days_over(folder)
        say_if_it_compiles("steps")
        with show.steps(quiet=quiet) as progress, settled_for_extraction():
            return shadow.propose(
                folder, found, settings, partial(load_detector_of, settings), present, progress
            )


def _take_back_calibration(folder: Path) -> None:
    from cmdana_plugin import statefile
    from cmdana_plugin.config import Adaptation as Settings
    from cmdana_plugin.decision import Adaptation
    from cmdana_plugin.replay import held

    state_file(folder)
    with held(folder) as path:
        known = statefile.read(path)
        fresh = statefile.prefixed("adaptation.", Adaptation(Settings(), on=True).state())
        statefile.write(path, statefile.State(known.about, {**known.arrays, **fresh}))


def _told(settings: Config, folder: Path) -> dict[str, Any]:
    """What has been adapted, as plain values."""
    from cmdana_plugin import statefile
    from cmdana_plugin.config import Adaptation as Settings
    from cmdana_plugin.decision import Adaptation
    from cmdana_plugin.logs import moments

    adaptation = Adaptation(Settings(), on=True)
    steps = _lineage(settings, folder).entries if _has_models(folder) else []
    if not steps or (folder / f"{statefile.NAME}{statefile.SUFFIX}").exists():
        try:
            adaptation.restore(statefile.under("adaptation.", statefile.read(state_file(folder)).arrays))
        except ValueError as error:
            raise CmdanaError(f"{folder}: {error}") from None
    return {
        "kinds": [
            {"traffic": name or "all", "connections": n, "1e-3 becomes": p}
            for name, n, p in adaptation.told()
        ],
        "history": [{"time": moments.shown(ts), "1e-3 becomes": p} for ts, p in adaptation.past()],
        "models": [{name: getattr(step, name) for name in step.__slots__} for step in steps],
    }


def _show(told: dict[str, Any]) -> None:
    from cmdana_plugin.training import Entry

    if not told["history"]:
        print("the model's own calibration holds: nothing has been adapted")
    else:
        print(
            "what a p-value of 1e-3 by the model becomes, by kind of traffic (connections that it is learned from):"
        )
        for kind in told["kinds"]:
            print(f"  {kind['traffic']:<24} {kind['1e-3 becomes']:.1e}  ({kind['connections']:,})")
        print("and of all traffic, sample by sample:")
        for line in told["history"][-_SHOWN:]:
            print(f"  {line['time']}  {line['1e-3 becomes']:.1e}")
    if told["models"]:
        print("models, step by step, each step signed:")
        for step in told["models"][-_SHOWN:]:
            print(f"  {step['time']}  {_words(Entry(**step))}")


def _words(step: Entry) -> str:
    """A step in a line."""
    name, judging = _name(step.model), f"{_name(step.judging)} judges"
    if step.action == "roll-back":
        return f"took {name} back: {judging}"
    if step.action == "propose":
        return f"proposed {name}: {step.words}" + (
            f"; not to be promoted: {step.refusal}" if step.refusal else ""
        )
    return f"did not promote {name}: {step.refusal}" if step.refusal else f"promoted {name}: {judging}"


def _name(model: str) -> str:
    return f"model {model[:12]}" if model else "the configured model"
