"""`python -m engines.build retrain`: options in, a decision in the run's folder, exit code out.

`streamer retrain` starts it, with labels that it has pinned and the champion that it has fetched.
"""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import Annotated

import typer

from engines.build import tracking
from engines.build.recipe import RetrainRecipe
from engines.build.retrain.decision import GateRules
from engines.build.terminal import reported

PROMOTE, REFUSE, FAILED = 0, 1, 2


def retrain(  # noqa: PLR0917 - options, typer passes them by name
    champion: Annotated[Path, typer.Argument(help="The directory of the release to go on from.")],
    labels: Annotated[Path, typer.Argument(help="Confirmed labels, pinned: a folder that `streamer retrain` writes.")],
    work: Annotated[Path, typer.Option(help="The run's folder; a run that was cut goes on from what stands there.")],
    catalog: Annotated[
        Path | None,
        typer.Option(help="Folder with the catalogue that the champion was trained on; not for drawn products."),
    ] = None,
    erased: Annotated[
        Path | None,
        typer.Option(help="Products of the catalogue to leave out: a file with the SHA-256 of an id in each line."),
    ] = None,
    mlflow: Annotated[Path | None, typer.Option(help="Where MLflow keeps runs; WORK when left out.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Of training, of each reader with compact.")] = RetrainRecipe.steps,
    word_steps: Annotated[
        int, typer.Option(min=1, help="Of learning what new words look like, before, with small.")
    ] = RetrainRecipe.word_steps,
    products: Annotated[int, typer.Option(min=20, help="Products of the catalogue that are replayed.")] = 3000,
    held_out_products: Annotated[int, typer.Option(min=20, help="Drawn products to measure on.")] = 1500,
    precision: Annotated[
        float, typer.Option(min=0.05, max=0.99, help="Of alerts: recalls are compared and thresholds chosen there.")
    ] = 0.5,
    alpha: Annotated[
        float, typer.Option(min=0.001, max=0.5, help="The chance of each wrong answer of the gate.")
    ] = 0.05,
    benchmark_margin: Annotated[
        float, typer.Option(min=0, max=1, help="Recall that may be lost on the catalogue's held-out products.")
    ] = 0.02,
    labels_margin: Annotated[
        float, typer.Option(min=0, max=1, help="Recall that may be lost on held-out labels.")
    ] = 0.05,
    slice_margin: Annotated[
        float, typer.Option(min=0, max=1, help="Recall that may be lost in a category, brand, language, image size.")
    ] = 0.1,
    false_alarm_margin: Annotated[
        float, typer.Option(min=0, max=1, help="Right pictures that may alert there beyond the champion's, as a share.")
    ] = 0.05,
    alarm_margin: Annotated[
        float,
        typer.Option(min=0, max=1, help="Right products that may alert beyond what the precision allows, as a share."),
    ] = GateRules.alarm_margin,
    implausible: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Labels are not believed by which this share may be wrong; the precision when left out."
        ),
    ] = None,
    least_labels: Annotated[
        int, typer.Option(min=2, help="Held-out mismatches, and matches, without which nothing is shown.")
    ] = 15,
    least_audited: Annotated[
        int, typer.Option(min=0, help="Labels of the audit, without which nobody knows how many products are wrong.")
    ] = GateRules.least_audited,
    reviewed_alerts: Annotated[
        float, typer.Option(min=0.001, max=1.0, help="The share of alerts that people judge, taken at random.")
    ] = 1.0,
    reviewed_audit: Annotated[
        float, typer.Option(min=0.001, max=1.0, help="The share of audit requests that people answer, taken at random.")
    ] = 1.0,
    threads: Annotated[
        int, typer.Option(min=1, help="CPU threads; at most so many readers are trained at a time, without a GPU.")
    ] = 2,
) -> None:
    """Go on from a release with confirmed labels, compare the two, and say whether the new one may take its place.

    Exit code 0: it may; 1: it is refused; 2: it could not be tried. WORK/decision.json says why, WORK/card/ shows it,
    WORK/challenger/ holds the release.
    """
    from engines.build.retrain.facts import Retraining  # noqa: PLC0415 - with what imports transformers, for seconds
    from engines.build.retrain.run import challenger_of  # noqa: PLC0415
    from engines.build.retrain.run import retrain as decide  # noqa: PLC0415
    from engines.build.retrain.votes import Reviewed  # noqa: PLC0415

    run = Retraining(
        champion=champion,
        labels=labels,
        work=work,
        catalog=catalog,
        erased=erased,
        recipe=RetrainRecipe(seed=seed, steps=steps, word_steps=word_steps, replay_products=products),
        rules=GateRules(
            precision=precision,
            alpha=alpha,
            benchmark_margin=benchmark_margin,
            labels_margin=labels_margin,
            slice_margin=slice_margin,
            false_alarm_margin=false_alarm_margin,
            alarm_margin=alarm_margin,
            implausible=implausible,
            least_labels=least_labels,
            least_audited=least_audited,
        ),
        products=products,
        held_out_products=held_out_products,
        reviewed=Reviewed(alerts=reviewed_alerts, audit=reviewed_audit),
    )
    with reported(threads, failed=FAILED) as progress, tracking.run(f"retrain-{work.name}", mlflow or work):
        decision = decide(run, progress)
    for reason in decision.reasons:
        typer.echo(f"{reason.code}: {reason.message}", err=True)
    typer.echo(challenger_of(work) if decision.promote else work / "card")
    raise typer.Exit(PROMOTE if decision.promote else REFUSE)


def champion(
    release: Annotated[str, typer.Argument(help="The release that scorers have been told to run.")],
    mlflow: Annotated[Path, typer.Option(help="Where MLflow keeps runs.")],
) -> None:
    """Give a release the alias `champion` in MLflow's registry, where MLflow is installed; to none if it is unknown."""
    tracking.follow(release, mlflow)
