"""`engines.build.models.attributes`: columns become tokens, and every family takes them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from engines.build import families
from engines.build.models.attributes import AttributeSpec, Resampler
from engines.contract import AttributeColumns
from engines.errors import EngineUnavailable
from tests import tiny_families

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

pytestmark = pytest.mark.usefixtures("one_torch_thread")

SPEC = AttributeSpec(numbers=2, categories=(3, 5), history=4, latents=3, heads=4)

COLUMNS = AttributeColumns(
    numbers=("price", "weight"),
    categories={"gender": ("men", "women"), "color": ("red", "blue", "green", "black")},
    history="price_history",
    history_length=4,
)

every_family = pytest.mark.parametrize("family", tiny_families.NAMES)


def columns(size: int, *, seed: int, known: float = 1.0) -> Tensor:
    """Return random attributes (B, A, 2) of which a share is known."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randn(size, 6, generator=generator)
    ids = torch.stack([torch.randint(0, count, (size,), generator=generator) for count in SPEC.categories], dim=1)
    values = torch.cat([numbers[:, :2], ids.float(), numbers[:, 2:]], dim=1)
    present = (torch.rand(size, SPEC.columns, generator=generator) < known).float()
    return torch.stack([values, present], dim=-1)


def resampler(spec: AttributeSpec = SPEC) -> Resampler:
    """Return a random resampler whose tokens differ visibly."""
    torch.manual_seed(0)
    made = Resampler(spec, tiny_families.WIDTH)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "norm" not in name:
                parameter.normal_(std=0.3)
    return made.eval()


def test_resampler_gives_latents_of_any_columns() -> None:
    """K tokens of the family's width, however many columns there are."""
    assert resampler()(columns(5, seed=1)).shape == (5, 3, tiny_families.WIDTH)


@pytest.mark.parametrize(
    "spec", [AttributeSpec(numbers=1), AttributeSpec(categories=(2,)), AttributeSpec(history=6)], ids=str
)
def test_resampler_of_one_kind_of_column_works(spec: AttributeSpec) -> None:
    """Numbers, categories and a history each stand alone."""
    tokens = resampler(spec)(torch.ones(2, spec.columns, 2))
    assert tokens.shape == (2, spec.latents, tiny_families.WIDTH)
    assert tokens.isfinite().all()


def test_resampler_reads_every_column() -> None:
    """Each known value, and each "unknown", changes the tokens."""
    model, attributes = resampler(), columns(1, seed=2)
    tokens = model(attributes)
    for column in range(SPEC.columns):
        changed, unknown = attributes.clone(), attributes.clone()
        changed[0, column, 0] = 1 - changed[0, column, 0].clamp(0, 1)
        unknown[0, column, 1] = 0
        assert not torch.allclose(model(changed), tokens, atol=1e-4)
        assert not torch.allclose(model(unknown), tokens, atol=1e-4)


def test_resampler_does_not_read_missing_values() -> None:
    """What stands where nothing is known may be anything, even no number."""
    model, attributes = resampler(), columns(4, seed=3, known=0.5)
    other = attributes.clone()
    other[..., 0] = torch.where(attributes[..., 1] > 0, attributes[..., 0], torch.nan)
    assert torch.equal(model(attributes), model(other))


def test_resampler_knows_when_a_price_was() -> None:
    """The same prices in another order are another history."""
    model, attributes = resampler(), columns(1, seed=4)
    turned = torch.cat([attributes[:, :4], attributes[:, 4:].flip(1)], dim=1)
    assert not torch.allclose(model(attributes), model(turned), atol=1e-4)


def test_resampler_id_out_of_range_counts_as_the_last() -> None:
    """A category that came after training is answered, not an error."""
    model, attributes = resampler(), columns(1, seed=5)
    attributes[0, 3, 0] = 4
    beyond = attributes.clone()
    beyond[0, 3, 0] = 1e6
    assert torch.equal(model(attributes), model(beyond))


def test_standardise_by_makes_units_not_matter() -> None:
    """Prices in cents, once standardised, say what prices in euros said; unknown values are left out."""
    euros = columns(50, seed=6, known=0.8)
    cents = euros.clone()
    numeric = [0, 1, 4, 5, 6, 7]
    cents[:, numeric, 0] = euros[:, numeric, 0] * 100 + 3
    cents[..., 0] = torch.where(cents[..., 1] > 0, cents[..., 0], 1e9)
    model = resampler()
    model.standardise_by(euros)
    expected = model(euros)
    model.standardise_by(cents)
    assert torch.allclose(model(cents), expected, atol=1e-4)


def test_standardise_by_columns_without_values_leaves_them() -> None:
    """A number that no product has, or that all have alike, divides by nothing."""
    attributes = columns(10, seed=7)
    attributes[:, 0, 1] = 0
    attributes[:, 1, 0] = 3
    model = resampler()
    model.standardise_by(attributes)
    assert model.columns.deviation[:2].tolist() == [1, 1]
    assert model(attributes).isfinite().all()


@every_family
def test_family_with_attributes_scores_with_and_without(family: str) -> None:
    """Attributes may be absent; where they are given they take part, each pair's own."""
    model = tiny_families.model(family, attributes=SPEC)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("core.") and "norm" not in name and "margin" not in name:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.3)
        pairs, attributes = tiny_families.pairs(4, seed=8), columns(4, seed=8)
        without, logits = model(*pairs), model(*pairs, attributes)
        single = torch.cat([model(*(t[i : i + 1] for t in (*pairs, attributes))) for i in range(4)])
    assert logits.shape == without.shape == (4,)
    assert ((logits - without).abs() > 1e-5).all()
    assert torch.allclose(logits, single, atol=1e-5)


@every_family
def test_family_with_attributes_learns_from_them(family: str) -> None:
    """Labels that only the attributes tell are fitted."""
    model = tiny_families.model(family, attributes=SPEC).train()
    pixels, ids, mask = (tensor[:1].expand(32, *tensor.shape[1:]) for tensor in tiny_families.pairs(1, seed=9))
    attributes = columns(32, seed=9)
    labels = (attributes[:, 0, 0] > 0).float()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    torch.manual_seed(0)
    losses = []
    for _ in range(60):
        loss = F.binary_cross_entropy_with_logits(model(pixels, ids, mask, attributes), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) / 5 < 0.55


@every_family
def test_family_with_attributes_survives_a_round_trip(family: str, tmp_path: Path) -> None:
    """Columns, weights and the statistics of the numbers are saved with the checkpoint."""
    model = tiny_families.model(family, attributes=SPEC)
    assert model.resampler is not None
    model.resampler.standardise_by(columns(20, seed=10))
    families.save(replace(tiny_families.source(family), model=model), tmp_path)
    loaded = families.load(family, tmp_path)
    pairs, attributes = tiny_families.pairs(3, seed=11), columns(3, seed=11)
    assert torch.allclose(loaded.model(*pairs, attributes), model(*pairs, attributes), atol=1e-6)
    assert loaded.provenance["attributes"]["categories"] == (3, 5)


@every_family
def test_load_gives_a_checkpoint_its_first_attributes(family: str, tmp_path: Path) -> None:
    """A checkpoint that takes none gets a resampler, and scores as before without attributes."""
    source = tiny_families.source(family)
    families.save(source, tmp_path)
    loaded = families.load(family, tmp_path, attributes=COLUMNS)
    pairs = tiny_families.pairs(3, seed=12)
    assert torch.allclose(loaded.model(*pairs), source.model(*pairs), atol=1e-6)
    assert loaded.model(*pairs, columns(3, seed=12)).isfinite().all()
    assert loaded.inputs[-1].shape == (None, COLUMNS.count, 2)


def test_load_of_a_checkpoint_with_other_attributes_is_unavailable(tmp_path: Path) -> None:
    """Its columns would be read as ours."""
    families.save(tiny_families.source("blip", attributes=SPEC), tmp_path)
    with pytest.raises(EngineUnavailable, match="other attributes"):
        families.load("blip", tmp_path, attributes=AttributeColumns(numbers=("price",)))


def test_family_without_attributes_refuses_them() -> None:
    """Attributes are not dropped in silence."""
    with pytest.raises(ValueError, match="AttributeSpec"):
        tiny_families.model("blip")(*tiny_families.pairs(2, seed=13), columns(2, seed=13))
