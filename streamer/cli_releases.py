"""`streamer releases`: which engines there are, which one runs, and how another is put to work without a restart."""

# No `from __future__ import annotations`: typer reads the annotations.
import json as jsonlib
from getpass import getuser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streamer import command
from streamer.command import EXIT_FOUND, Bootstrap, Store
from streamer.errors import FatalError

if TYPE_CHECKING:
    from engines.contract import Manifest
    from streamer.comparison import Comparison
    from streamer.events import EngineRelease
    from streamer.promotion import Checked, Listed
    from streamer.shadow_events import ShadowRelease

PLOT_FORMATS = (".png", ".svg", ".pdf")

releases_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="List, show, promote, roll back and try engine releases: running scorers swap without losing an event.",
)

Reason = Annotated[str | None, typer.Option(help="Why, for those who read the list later.")]
By = Annotated[str | None, typer.Option(help="Who announces it; your user name if unset.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@releases_app.command("list")
def list_releases(*, store: Store = None, json: Json = False, bootstrap: Bootstrap = None) -> None:
    """List the releases of the store, the oldest first, and say which one is announced to scorers.

    Example: `streamer releases list --store s3://shop/releases`

    Settings: STREAMER_RELEASES__STORE, STREAMER_TOPICS__RELEASES and STREAMER_BROKER__….
    """
    from streamer import promotion, trials  # noqa: PLC0415

    settings = command.settings(bootstrap=bootstrap, store=store)
    listed = command.run(promotion.list_releases(settings, promotion.open_store(settings)))
    shadow = command.run(trials.running(settings))
    if json:
        for one in listed:
            typer.echo(jsonlib.dumps(_summary(one, shadow)))
        return
    from rich.table import Table  # noqa: PLC0415

    table = Table("release", "runs", "made", "parent", "threshold", "announced", "by", "why")
    for one in listed:
        told = one.announced
        table.add_row(
            one.manifest.release,
            "[green]yes[/]" if one.runs else _tried(one.manifest, shadow),
            one.manifest.created_at,
            one.manifest.parent or "",
            f"{one.manifest.threshold:.3f}",
            f"{told.announced_at:%Y-%m-%d %H:%M} {told.action.replace('_', ' ')}" if told else "",
            told.announced_by if told else "",
            (told.reason or "") if told else "",
        )
    command.console().print(table)


@releases_app.command("show")
def show_release(
    release: Annotated[str, typer.Argument(help="As `list` prints it.")],
    *,
    store: Store = None,
) -> None:
    """Print a release's manifest: inputs, calibration, thresholds, metrics, what it was trained on, its digests.

    Example: `streamer releases show compact-0123456789ab`

    Settings: STREAMER_RELEASES__STORE.
    """
    from engines.releases import encode_manifest  # noqa: PLC0415
    from streamer import promotion  # noqa: PLC0415

    stored = promotion.open_store(command.settings(store=store)).read(release)
    typer.echo(encode_manifest(stored.manifest).decode(), nl=False)


@releases_app.command("promote")
def promote_release(
    release: Annotated[str, typer.Argument(metavar="RELEASE|DIR", help="Of the store, or a directory to publish.")],
    *,
    reason: Reason = None,
    by: By = None,
    store: Store = None,
    bootstrap: Bootstrap = None,
) -> None:
    """Check a release on this machine, publish it into the store if it is a directory, and announce it to scorers.

    Checked are every digest, that it loads, and that it gives its golden pairs the answers that it gave where it was
    made. Scorers do the same, load it beside the engine that runs, and swap between two batches; one that refuses it
    goes on as before and says why (`streamer_engine_refused_total`, and `release.refused` in its log).

    How good it is, is not asked: the gate of `streamer retrain` is passed by. `shadow` tries a release first.

    The first time the release of STREAMER_ENGINE__RELEASE, or the one that ships, is published along, for `rollback` to
    go back to: set it as scorers have it.

    Scorers follow announcements where STREAMER_RELEASES__STORE is set. A publication that is killed leaves nothing
    behind that anybody takes for a release: run it again.

    Example: `streamer releases promote releases/compact-0123456789ab --reason "labels of May"`

    Settings: STREAMER_RELEASES__STORE, STREAMER_ENGINE__RELEASE, STREAMER_TOPICS__RELEASES and STREAMER_BROKER__….
    """
    from streamer import promotion  # noqa: PLC0415

    settings = command.settings(bootstrap=bootstrap, store=store)
    kept = promotion.open_store(settings)
    directory = Path(release)
    with command.console(stderr=True).status("checking …"):
        checked = promotion.publish(kept, directory) if directory.is_dir() else promotion.check(kept, release)
        before = command.run(promotion.running_before(settings, kept))
    told = command.run(promotion.promote(settings, checked, by=by or getuser(), reason=reason, running=before))
    _say(checked, told, checked.stored.manifest)


@releases_app.command("rollback")
def roll_back_release(
    *, reason: Reason = None, by: By = None, store: Store = None, bootstrap: Bootstrap = None
) -> None:
    """Announce the release that ran before the one that runs; once more, and it is the one before that.

    Example: `streamer releases rollback --reason "too many alerts in Shoes"`

    Settings: STREAMER_RELEASES__STORE, STREAMER_TOPICS__RELEASES and STREAMER_BROKER__….
    """
    from streamer import promotion  # noqa: PLC0415

    settings = command.settings(bootstrap=bootstrap, store=store)
    target = command.run(promotion.rollback_target(settings))
    with command.console(stderr=True).status(f"checking {target} …"):
        checked = promotion.check(promotion.open_store(settings), target)
    told = command.run(promotion.roll_back(settings, checked, by=by or getuser(), reason=reason))
    _say(checked, told, checked.stored.manifest)


@releases_app.command("shadow")
def shadow_release(
    release: Annotated[
        str | None, typer.Argument(metavar="RELEASE|DIR", help="Of the store, or a directory to publish.")
    ] = None,
    *,
    share: Annotated[float, typer.Option(min=1e-6, max=1.0, help="Of the products, by their ids.")] = 0.05,
    end: Annotated[bool, typer.Option("--end", help="End the trial that runs.")] = False,
    reason: Reason = None,
    by: By = None,
    store: Store = None,
    bootstrap: Bootstrap = None,
) -> None:
    """Let scorers try a release beside the one that runs: it scores a share of the products and alerts nobody.

    It is checked and published as by `promote`. What it says stands in shadow-scores beside what the champion said;
    `compare` sums it up. Scoring waits for nothing of it: each worker tries one product at a time in a thread of low
    priority and passes over what it has no room for (`streamer_shadow_skipped_total`). Workers need memory for two
    engines; on a GPU the challenger takes its share of the GPU's time.

    One release is tried at a time; another one takes its place, and so does another share of the same.

    Example: `streamer releases shadow releases/compact-0123456789ab --share 0.1`

    Settings: STREAMER_RELEASES__STORE, STREAMER_TOPICS__… and STREAMER_BROKER__….
    """
    from streamer import promotion, trials  # noqa: PLC0415

    settings = command.settings(bootstrap=bootstrap, store=store)
    console = command.console()
    if end == (release is not None):
        raise FatalError("release_missing", "say which release to try, or --end")
    if release is None:
        ended = command.run(trials.end(settings))
        console.print(f"[green]ended[/] the trial of {ended.release}" if ended else "no release is tried")
        return
    kept = promotion.open_store(settings)
    directory = Path(release)
    with command.console(stderr=True).status("checking …"):
        checked = promotion.publish(kept, directory) if directory.is_dir() else promotion.check(kept, release)
    told = command.run(trials.begin(settings, checked, share=share, by=by or getuser(), reason=reason))
    console.print(f"[green]announced[/] the trial of {told.release} on {told.share:.3g} of the products")


@releases_app.command("compare")
def compare_releases(
    release: Annotated[str | None, typer.Argument(help="The challenger; all that were tried if left out.")] = None,
    *,
    days: Annotated[float, typer.Option(min=0.001, help="How far to look back; scores are kept for a week.")] = 7.0,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the first comparison there: .png, .svg or .pdf.")
    ] = None,
    json: Json = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Sum up what a shadow has said: how its scores correlate, which alerts would open or close, by category.

    Exit code 1 where nothing was compared yet. `--plot` needs matplotlib: `pip install 'mismatch-streamer[demo]'`.

    Example: `streamer releases compare --days 1 --plot shadow.png`

    Settings: STREAMER_TOPICS__SHADOW_SCORES and STREAMER_BROKER__….
    """
    from datetime import UTC, datetime, timedelta  # noqa: PLC0415

    from streamer import terminal, trials  # noqa: PLC0415

    settings = command.settings(bootstrap=bootstrap)
    if plot is not None:
        _check_plot(plot)
    since = datetime.now(UTC) - timedelta(days=days)
    with terminal.ReadingBar(command.console(stderr=True), "reading") as bar:
        found = command.run(trials.read(settings, release=release, since=since, watch=bar))
    if not found:
        command.console(stderr=True).print("nothing was compared yet: `streamer releases list` says what is tried")
        raise typer.Exit(EXIT_FOUND)
    for one in found:
        if json:
            typer.echo(jsonlib.dumps(_compared(one)))
        else:
            command.console().print(terminal.comparison_table(one))
    if plot is not None:
        from streamer.comparison_plot import draw  # noqa: PLC0415

        draw(found[0], plot)
        command.console(stderr=True).print(f"drawn to {plot}")


def _check_plot(plot: Path) -> None:
    from importlib.util import find_spec  # noqa: PLC0415

    if find_spec("matplotlib") is None:
        raise FatalError("plot_not_installed", "--plot needs: pip install 'mismatch-streamer[demo]'")
    if plot.suffix not in PLOT_FORMATS:
        raise FatalError("plot_format_unknown", f"{plot}: the name must end with {', '.join(PLOT_FORMATS)}")


def _compared(one: "Comparison") -> dict[str, object]:
    return {
        "champion": one.champion,
        "challenger": one.challenger,
        **one.all.facts(),
        "categories": {name: group.facts() for name, group in one.largest(len(one.categories))},
    }


def _say(checked: "Checked", told: "EngineRelease | None", manifest: "Manifest") -> None:
    console = command.console()
    if told is None:
        console.print(f"{manifest.release} is announced already: nothing was sent")
        return
    instead = f" instead of {told.replaces}" if told.replaces else ""
    console.print(f"[green]announced[/] {manifest.release}{instead}", soft_wrap=True)
    if not checked.golden_pairs:
        console.print("[yellow]note[/] it has no golden pairs: only its digests and finite answers were checked")


def _tried(manifest: "Manifest", shadow: "ShadowRelease | None") -> str:
    tried = shadow is not None and shadow.release == manifest.release
    return f"tried on {shadow.share:.3g}" if shadow is not None and tried else ""


def _summary(one: "Listed", shadow: "ShadowRelease | None") -> dict[str, object]:
    told = one.announced
    return {
        "release": one.manifest.release,
        "runs": one.runs,
        "shadow_share": shadow.share if shadow and shadow.release == one.manifest.release else None,
        "created_at": one.manifest.created_at,
        "parent": one.manifest.parent,
        "threshold": one.manifest.threshold,
        "announced_at": told.announced_at.isoformat() if told else None,
        "action": told.action if told else None,
        "announced_by": told.announced_by if told else None,
        "reason": told.reason if told else None,
    }
