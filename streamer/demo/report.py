"""The demo's report: one HTML file that shows what was caught, missed and falsely accused. No outside resource.

Product text is untrusted: Jinja2 escapes all of it, and the only ready-made markup is what this module wraps itself.
"""

from __future__ import annotations

import base64
import io
import re
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image

from streamer.demo.attribution import is_right, shown_by
from streamer.demo.charts import precision_recall_chart, score_histogram
from streamer.demo.evaluation import precision_recall, ranked, wilson_interval
from streamer.demo.products import difference

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from streamer.demo.attribution import Shown
    from streamer.demo.evaluation import Evaluation, Verdict
    from streamer.demo.products import DemoProduct, Difference
    from streamer.demo.summary import RunFacts
    from streamer.events import Contradiction

MAX_CARDS = 60
"""Pictures of one section; at 256 px a card takes about 25 kB, so that the page stays below 8 MB."""
THUMBNAIL_PX = 256
INSET_PX = 112
JPEG_QUALITY = 82


@dataclass(frozen=True, kw_only=True)
class Card:
    """One judged event, ready for the page; pictures are data URLs, texts are marked where they are contradicted.

    `named` is what the alert names first; `named_right` whether that is untrue, None where all is true.
    """

    product_id: str
    title: Markup
    description: Markup
    facts: list[tuple[str, Markup]]
    difference: Difference | None
    named: Contradiction | None
    named_right: bool | None
    probability: float
    threshold: float
    shown: str
    heat: str | None
    right: str | None


class Report:
    """Everything that the page needs, from the run's figures, its products and their pictures.

    Args:
        evaluation: the figures.
        products: by id.
        pictures: the folder of their pictures.
        facts: of the run.
        heat: overlays of some pictures, see `streamer.demo.attribution.heat_maps`.
    """

    def __init__(
        self,
        evaluation: Evaluation,
        products: Mapping[str, DemoProduct],
        pictures: Path,
        facts: RunFacts,
        heat: Mapping[Shown, str] | None = None,
    ) -> None:
        self._evaluation = evaluation
        self._products = products
        self._pictures = pictures
        self._facts = facts
        self._heat = heat or {}

    def write(self, directory: Path) -> Path:
        """Write index.html into `directory` and return its path."""
        environment = Environment(
            loader=PackageLoader("streamer", "demo"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        page = environment.get_template("report.html.j2").render(self._context())
        directory.mkdir(parents=True, exist_ok=True)
        target = directory / "index.html"
        target.write_text(page, encoding="utf-8")
        return target

    def _context(self) -> dict[str, Any]:
        e = self._evaluation
        curve = precision_recall(e.verdicts)
        named = self._named_right()
        return {
            "e": e,
            "facts": self._facts,
            "finished_at": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            "recall_interval": wilson_interval(len(e.caught), len(e.caught) + len(e.missed)),
            "precision_interval": wilson_interval(len(e.caught), len(e.caught) + len(e.false_alarms)),
            "named": named,
            "named_interval": wilson_interval(*named),
            "outcomes": e.ledger.counts.most_common(),
            "transitions": e.ledger.transitions(),
            "kinds": [(kind, sum(row.values()), row.most_common()) for kind, row in sorted(e.by_kind.items())],
            "rejected": self._rejected(),
            "sections": [
                self._section("caught", "Caught", _CAUGHT, ranked(e.caught)),
                self._section("missed", "Missed", _MISSED, ranked(e.missed)),
                self._section("false", "False alarms", _FALSE, ranked(e.false_alarms)),
            ],
            "histogram": Markup(score_histogram(e.verdicts)) if e.verdicts else None,  # noqa: S704 - no product text
            "curve": Markup(precision_recall_chart(curve, e.recall, e.precision)) if curve else None,  # noqa: S704
            "average_precision": curve.average_precision if curve else None,
        }

    def _section(self, name: str, title: str, lead: str, verdicts: list[Verdict]) -> dict[str, Any]:
        cards = [self._card(verdict) for verdict in verdicts[:MAX_CARDS]]
        return {"name": name, "title": title, "lead": lead, "total": len(verdicts), "cards": cards}

    def _named_right(self) -> tuple[int, int]:
        """Return in how many true alerts the field named first is the wrong one, and how many there are."""
        caught = ranked(self._evaluation.caught)
        differences = [difference(*(self._products[i] for i in shown_by(verdict))) for verdict in caught]
        right = (is_right(verdict.contradicts, wrong) for verdict, wrong in zip(caught, differences, strict=True))
        return sum(right), len(caught)

    def _card(self, verdict: Verdict) -> Card:
        truth = verdict.truth
        product, shown = (self._products[i] for i in shown_by(verdict))
        wrong = difference(product, shown) if truth.swapped else None
        untrue = wrong.phrases if wrong else ()
        return Card(
            product_id=product.id,
            title=highlight(product.fields.get("title", product.id), untrue),
            description=highlight(product.fields.get("description", ""), untrue),
            facts=[(k, highlight(v, untrue)) for k, v in product.fields.items() if k not in ("title", "description")],
            difference=wrong,
            named=next(iter(verdict.contradicts), None),
            named_right=is_right(verdict.contradicts, wrong) if wrong else None,
            probability=verdict.probability,
            threshold=verdict.threshold,
            shown=thumbnail(self._pictures / shown.picture, THUMBNAIL_PX),
            heat=self._heat.get(shown_by(verdict)),
            right=thumbnail(self._pictures / product.picture, INSET_PX) if truth.swapped else None,
        )

    def _rejected(self) -> list[tuple[str, str, str, int]]:
        """Return kind, reason code, an example of the words, and how many."""
        counts: Counter[tuple[str, str]] = Counter()
        examples: dict[tuple[str, str], str] = {}
        for truth, outcome in self._evaluation.outcome_of:
            if outcome.reason is not None:
                key = (truth.kind, outcome.reason)
                counts[key] += 1
                examples.setdefault(key, outcome.message or "")
        return [(kind, reason, examples[kind, reason], n) for (kind, reason), n in sorted(counts.items())]


_CAUGHT = (
    "Alerts on products that do carry another product's picture. The marked words are what the picture contradicts."
)
_MISSED = "Wrong pictures whose probability stayed below the threshold."
_FALSE = "Alerts on products whose picture is the right one."


def highlight(text: str, phrases: Sequence[str]) -> Markup:
    """Return the text, escaped, with these phrases (in lower case) in <mark> wherever they stand as whole words."""
    if not phrases:
        return escape(text)
    longest_first = sorted(phrases, key=len, reverse=True)
    pieces = re.split(rf"\b({'|'.join(map(re.escape, longest_first))})\b", text, flags=re.IGNORECASE)
    # re.split with one group alternates: text, phrase, text, …
    return Markup("").join(
        Markup("<mark>{}</mark>").format(piece) if index % 2 else piece for index, piece in enumerate(pieces)
    )


def thumbnail(picture: Path, size_px: int) -> str:
    """Return the picture, at most `size_px` a side, as a data URL."""
    with Image.open(picture) as image:
        image.draft("RGB", (size_px, size_px))
        small = image.convert("RGB")
    small.thumbnail((size_px, size_px))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
