"""What of a release makes a decision of a logit: its calibration and its thresholds. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from engines import calibration, releases

if TYPE_CHECKING:
    from engines.contract import Manifest
    from streamer.events import ProductScore


class Policy:
    """How one release decides.

    Attributes:
        release: its name.
        model: what decides a logit; releases that differ in calibration or thresholds only have the same.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.release = manifest.release
        self.model = releases.model_digest(manifest)
        self._manifest = manifest

    def probability(self, logit: float) -> float:
        """Return the calibrated P(mismatch), 0..1."""
        return float(calibration.apply(self._manifest.calibration, np.asarray([logit]))[0])

    def threshold(self, category: str) -> float:
        """Return the probability from which on a top-level category alerts."""
        return self._manifest.threshold_of(category)

    def rule(self, score: ProductScore) -> ProductScore:
        """Return the score as this release decides it, unchanged where another model made it."""
        if score.model != self.model or isinstance(score.logit, msgspec.UnsetType):
            return score
        probability, threshold = self.probability(score.logit), self.threshold(score.category or "")
        return msgspec.structs.replace(
            score,
            probability=probability,
            threshold=threshold,
            release=self.release,
            contradicts=score.contradicts if probability >= threshold else msgspec.UNSET,
        )
