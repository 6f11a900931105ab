"""`engines.build.adapt.prepare`: what cannot be trained on is refused before time is spent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from rich.progress import Progress

from engines.build import adapt
from engines.build.dataset import Catalog, Product
from engines.build.recipe import AdaptRecipe
from engines.errors import TextRefused

if TYPE_CHECKING:
    from pathlib import Path


def test_prepare_names_a_product_without_text_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row of a held-out part that says nothing ends a run at its beginning, not once all features are there."""
    monkeypatch.setattr(adapt, "fresh", lambda *_: pytest.fail("a model was made"))
    good, bad = (
        Catalog((Product({"title": title}, (), n, title, ""),), (), np.zeros((1, 3, 1, 1), np.uint8), np.arange(1))
        for n, title in enumerate(("mug", "-"))
    )
    with Progress(disable=True) as progress, pytest.raises(TextRefused, match="no field"):
        adapt.prepare((good, good, bad), "shop", tmp_path, AdaptRecipe(seed=0), progress)
