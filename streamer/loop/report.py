"""The loop's page: recalls before and after, how long each phase took, and the way to the model card."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from engines.catalogs import svg
from streamer.loop import figures
from streamer.loop.display import PHASES

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.loop.figures import Outcome
    from streamer.retrain_log import LastRetraining

SIZE_INCHES = (6.2, 3.2)
BEFORE, AFTER = "#6b8a99", "#e0524d"


def write_report(out: Path, outcome: Outcome, last: LastRetraining | None, *, seed: int) -> Path:
    """Write the page into `out` and return its path."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader("streamer", "loop"), PackageLoader("engines", "catalogs")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    recalls = recall_chart(outcome)
    (out / "recall.svg").write_text(recalls.replace("currentColor", "#777"), encoding="utf-8")  # read on any ground
    card = None if last is None else f"runs/{last.run}/card/index.html"
    page = environment.get_template("loop.html.j2").render(
        outcome=outcome,
        last=last,
        card=card if card is not None and (out / card).exists() else None,
        seed=seed,
        phases=PHASES,
        precision=figures.PRECISION,
        prevalence=figures.PREVALENCE,
        recalls=Markup(recalls),  # noqa: S704 - numbers and our own words
        times=Markup(time_chart(outcome)),  # noqa: S704 - as above
    )
    path = out / "index.html"
    path.write_text(page, encoding="utf-8")
    return path


def recall_chart(outcome: Outcome) -> str:
    """Return recall of both engines by kind of product, with 95 % intervals."""
    with mpl.rc_context(svg.STYLE):
        figure, axes = svg.axes("", f"recall at precision {figures.PRECISION}", SIZE_INCHES)
        names = {"new": "the new kind", "old": "usual kinds"}
        for place, recall in enumerate(outcome.recalls.values()):
            for shift, interval, colour in ((-0.18, recall.before, BEFORE), (0.18, recall.after, AFTER)):
                spread = [[max(0.0, interval.value - interval.low)], [max(0.0, interval.high - interval.value)]]
                label = ("before" if colour == BEFORE else "after") if place == 0 else None
                axes.bar(place + shift, interval.value, 0.34, color=colour, label=label)
                axes.errorbar(place + shift, interval.value, yerr=spread, color=svg.INK, linewidth=1.2)
        axes.set_xticks(range(len(outcome.recalls)), [names[kind] for kind in outcome.recalls])
        axes.set_ylim(0.0, 1.05)
        if outcome.recalls:
            axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2)
        return svg.inline(figure, "Recall before and after")


def time_chart(outcome: Outcome) -> str:
    """Return how long each phase took."""
    with mpl.rc_context(svg.STYLE):
        figure, axes = svg.axes("seconds", "", SIZE_INCHES)
        names = list(outcome.seconds)[::-1]
        axes.barh(names, [outcome.seconds[name] for name in names], color=BEFORE)
        return svg.inline(figure, "How long each phase took")
