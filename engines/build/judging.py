"""What a release's engine says of pairs of a catalogue, why, and where: in one process, without a stream.

    Inquiry ──► logits ──► of alerts: reasons (claims left out) ──► of the first few: heat maps (regions covered)

Batches hold what is asked about several pairs, so that every core has one however few claims a text makes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from engines import attribution, calibration
from engines.attributes import AttributeReader
from engines.build import evaluate
from engines.build.evaluate import MATCH, Pairs
from engines.build.texts import encode
from engines.contract import Batch
from engines.heat import heat_map
from engines.inference import infer_all
from engines.text import compose

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from rich.progress import Progress

    from engines.attribution import Claim, LeftOut
    from engines.build.dataset import Catalog
    from engines.build.texts import Texts
    from engines.contract import Engine
    from engines.text import Tokenizer


class Variant(NamedTuple):
    """One of the pairs, by its place, and which of its claims is left out."""

    place: int
    claim: int


class Reason(NamedTuple):
    """What of a pair's text its picture contradicts: claims, the worst first, and what the worst one's variant is."""

    claims: tuple[Claim, ...]
    worst: Variant | None

    @property
    def words(self) -> str:
        """The claims for people, as `field: words; field: words`."""
        return "; ".join(f"{claim.field}: {claim.value}" for claim in self.claims)


def own_pairs(catalog: Catalog) -> Pairs:
    """Return each product with its first picture."""
    own = np.arange(len(catalog.products))
    return Pairs(own, catalog.first_picture[:-1], np.zeros_like(own), np.full(len(own), MATCH))


@dataclass(frozen=True)
class Inquiry:
    """An engine that is asked about M pairs of a catalogue; all answers raise InferenceFailed where it does not run."""

    engine: Engine
    tokenizer: Tokenizer
    catalog: Catalog
    pairs: Pairs

    @cached_property
    def texts(self) -> Texts:
        """What the engine reads of every product."""
        return encode(self.catalog, self.tokenizer, self.engine.manifest.attributes)

    @cached_property
    def left_out(self) -> list[LeftOut]:
        """What each pair's text claims, and its masks without."""
        composed = [compose(self.catalog.products[i].fields, self.tokenizer.spec) for i in self.pairs.product.tolist()]
        masks = self.texts.attention_mask[self.pairs.product]
        return [
            attribution.leave_out(text, self.tokenizer.spans(text), mask)
            for text, mask in zip(composed, masks, strict=True)
        ]

    def logits(self, progress: Progress) -> NDArray[np.float32]:
        """Return the engine's answer for each pair, (M,)."""
        return evaluate.score(self.engine, self.catalog, self.texts, self.pairs, progress)

    def probabilities(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return what the engine's calibration makes of logits."""
        return calibration.apply(self.engine.manifest.calibration, logits)

    def reasons(self, progress: Progress) -> list[Reason]:
        """Return what of each pair's text its picture contradicts, as a worker finds it (`streamer.explain`)."""
        logits = self.logits(progress)
        limits = evaluate.thresholds(self.engine.manifest, self.catalog)[self.pairs.product]
        answers: list[list[float]] = [[] for _ in self.left_out]
        facts = [Variant(place, n) for place, one in enumerate(self.left_out) for n in range(one.facts)]
        self._ask(facts, answers, progress)
        others = [
            Variant(place, n)
            for place, one in enumerate(self.left_out)
            if self._stands(answers[place], limits[place])  # no single fact is the reason
            for n in range(one.facts, len(one.claims))
        ]
        self._ask(others, answers, progress)
        return [self._reason(place, logit, answers[place]) for place, logit in enumerate(logits.tolist())]

    def heat_map(self, reason: Reason) -> NDArray[np.float32] | None:
        """Return where the picture contradicts the worst claim (see `engines.heat`), None where there is none."""
        if reason.worst is None:
            return None
        picture = self.pairs.picture[[reason.worst.place]]
        whole = self.texts.batch(self.catalog.pixel_values[picture], self.pairs.product[[reason.worst.place]])
        return heat_map(self.engine, whole, self._batch([reason.worst]))

    def _stands(self, answers: Sequence[float], limit: float) -> bool:
        return bool((self.probabilities(np.asarray(answers, dtype=np.float32)) >= limit).all())

    def _ask(self, variants: Sequence[Variant], answers: Sequence[list[float]], progress: Progress) -> None:
        """Add the engine's answer for each variant to those of its pair."""
        size = self.engine.manifest.max_batch
        batches = (self._batch(variants[at : at + size]) for at in range(0, len(variants), size))
        logits = (logit for scored in infer_all(self.engine, batches) for logit in scored.tolist())
        shown = progress.track(logits, total=len(variants), description="leaving claims out")
        for variant, logit in zip(variants, shown, strict=True):
            answers[variant.place].append(logit)

    def _batch(self, variants: Sequence[Variant]) -> Batch:
        places = np.array([variant.place for variant in variants])
        products, pictures = self.pairs.product[places], self.pairs.picture[places]
        masks = np.stack([self.left_out[place].attention_mask[claim] for place, claim in variants])
        return Batch(
            self.catalog.pixel_values[pictures], self.texts.input_ids[products], masks, self._attributes(variants)
        )

    def _attributes(self, variants: Sequence[Variant]) -> NDArray[np.float32] | None:
        columns, known = self.engine.manifest.attributes, self.texts.attributes
        if columns is None or known is None:
            return None
        reader = AttributeReader(columns)
        fields = (self.left_out[place].claims[claim].field for place, claim in variants)
        products = self.pairs.product[[variant.place for variant in variants]]
        return np.stack([reader.without(known[i], name) for i, name in zip(products, fields, strict=True)])

    def _reason(self, place: int, logit: float, answers: Sequence[float]) -> Reason:
        claims = self.left_out[place].claims
        named = tuple(one.claim for one in attribution.rank(claims[: len(answers)], logit, answers))
        return Reason(named, Variant(place, claims.index(named[0])) if named else None)
