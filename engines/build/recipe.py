"""Every choice of a training run; written into the release's provenance."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

from engines.text import OTHER_FIELDS

PREVALENCE = 0.05
"""The share of wrong products that figures and thresholds are stated for, unless told otherwise."""

_SHARES = (0.70, 0.15, 0.15)  # of a folder's products: to train on, to choose thresholds with, to measure on

# Short decisive fields first: truncation cuts the end. An invented brand says nothing that a picture shows.
TEXT_FIELDS = (
    "title",
    "color",
    "pattern",
    "material",
    "product_type",
    "gender",
    "size",
    OTHER_FIELDS,
    "description",
    "brand",
)


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of one run.

    `model` holds sizes of the family's config that are not its defaults. `easy_mix` and `hard_mix` give the
    probability of each kind of partner (`negatives.PartnerSampler.kinds`). For a share `looking` of the steps nothing
    is compared; comparing begins with the easy mix, which has become the hard one a share `curriculum` later. Pictures
    are small at first, which is cheap: `image_sizes` says up to which share of the steps, `image_size` is the last.
    """

    epochs: int
    seed: int
    shares: tuple[float, float, float] = _SHARES
    image_size: int = 224
    image_sizes: tuple[tuple[float, int], ...] = ((0.25, 96), (0.8, 128), (0.9, 160))
    max_tokens: int = 64
    model: dict[str, Any] = field(default_factory=dict)
    vocabulary_size: int = 2000
    anchors_per_step: int = 16
    learning_rate: float = 1e-3
    warmup_steps: int = 150
    weight_decay: float = 0.03
    teaching_weight: float = 1.0
    average_decay: float = 0.99
    looking: float = 0.5
    curriculum: float = 0.1
    shift_pixels: int = 4
    easy_mix: dict[str, float] = field(default_factory=lambda: {"random": 0.7, "category": 0.3})
    hard_mix: dict[str, float] = field(
        default_factory=lambda: {"random": 0.05, "category": 0.15, "sibling": 0.5, "neighbour": 0.3}
    )

    def as_dict(self) -> dict[str, object]:
        """Return every choice for the manifest's provenance."""
        return asdict(self)

    def size_at(self, progress: float) -> int:
        """Return the pictures' side in pixels after this share of the steps, 0..1."""
        return next((size for until, size in self.image_sizes if progress < until), self.image_size)

    def mix_at(self, progress: float) -> dict[str, float]:
        """Return the mix of partners after this share of the steps, 0..1."""
        hard = min(1.0, max(0.0, progress - self.looking) / self.curriculum) if self.curriculum > 0 else 1.0
        kinds = self.easy_mix.keys() | self.hard_mix.keys()
        return {k: (1 - hard) * self.easy_mix.get(k, 0.0) + hard * self.hard_mix.get(k, 0.0) for k in sorted(kinds)}


def _hard_mix() -> dict[str, float]:
    """Return the shares of partners (`mining.Miner.kinds`).

    A product that has none of a kind has one of the kind before instead: in a catalogue without item groups the share
    of variants goes to those of another color, without colors to the nearest, without brands to the category, and
    without categories to all.
    """
    return {"random": 0.05, "category": 0.1, "brand": 0.1, "nearest": 0.2, "recolored": 0.3, "variant": 0.25}


@dataclass(frozen=True)
class TuneRecipe:
    """Hyperparameters of fine-tuning a checkpoint of a pretrained family.

    A step has 4 * `anchors_per_step` pairs, shared among the processes; `pairs_at_once` bounds the memory of each.
    `mix` and `attributes` are those of `AdaptRecipe`.
    """

    seed: int
    shares: tuple[float, float, float] = _SHARES
    epochs: float = 3.0
    max_tokens: int = 64
    anchors_per_step: int = 16
    pairs_at_once: int = 16
    learning_rate: float = 3e-5
    warmup_share: float = 0.1
    weight_decay: float = 0.01
    attributes: bool = False
    mix: dict[str, float] = field(default_factory=_hard_mix)

    def as_dict(self) -> dict[str, object]:
        """Return every choice for the manifest's provenance."""
        return asdict(self)


@dataclass(frozen=True)
class AdaptRecipe:
    """Hyperparameters of adapting a compact model to a catalogue.

    Each picture is compared with 2 + `hard_texts` texts a step; with a `pair_weight` of 0 nothing is compared, and what
    is trained is a dual encoder. `mix` gives the probability of each kind of partner (`mining.Miner.kinds`).
    `word_dropout` is the share of its words that a text loses in a step. `trimmed_share` of the matches, those with the
    largest losses, are taken for errors of the catalogue. Each picture is also compared with one of `wrong_texts` texts
    of its product that are wrong in one attribute (see `rewording`). With `attributes` the model also reads the
    catalogue's columns (see `columns`). Of each picture there are `views` (see `views`), on disk some 120 kB each.
    `shares` of the products are to train on, to choose thresholds with and to measure on; of a large catalogue
    `max_products` are drawn to train on. If `epochs` is left out, they are `EPOCHS`, or as many
    more as make `least_steps`: a small catalogue is looked at more often. Readers begin with what another catalogue has
    taught them (see `warm_start`), unless `from_scratch`, and are then tuned as `warm` says: in fewer steps, with the
    classifiers of facets, which begin with nothing, `head_rate` times as fast as the rest. Taggers look at each picture
    `tag_epochs` times; if left out, `tagged` follows from `epochs`.
    """

    EPOCHS: ClassVar = 8.0
    TAG_EPOCHS: ClassVar = 30.0
    LEAST_STEPS: ClassVar = 1000
    WARM: ClassVar[dict[str, Any]] = {"least_steps": 200, "head_rate": 5.0, "facet_weight": 1.0}

    seed: int
    shares: tuple[float, float, float] = _SHARES
    epochs: float | None = None
    least_steps: int = LEAST_STEPS
    from_scratch: bool = False
    max_tokens: int = 64
    model: dict[str, Any] = field(default_factory=dict)
    anchors_per_step: int = 16
    hard_texts: int = 1
    learning_rate: float = 7e-4
    weight_decay: float = 0.05
    average_decay: float = 0.995
    pair_weight: float = 1.0
    contrastive_weight: float = 0.5
    facet_weight: float = 0.3
    head_rate: float = 1.0
    word_dropout: float = 0.15
    trimmed_share: float = 0.0
    wrong_texts: int = 0
    views: int = 6
    max_products: int = 20_000
    tag_epochs: float | None = None
    attributes: bool = False
    mix: dict[str, float] = field(default_factory=_hard_mix)

    def warm(self) -> AdaptRecipe:
        """Return the recipe for readers that have learned from another catalogue before."""
        return replace(self, **self.WARM)

    @property
    def tagged(self) -> float | None:
        """How often taggers look at each picture; None: `TAG_EPOCHS`, or as many more as make `LEAST_STEPS`."""
        if self.tag_epochs is not None or self.epochs is None:
            return self.tag_epochs
        return self.epochs / self.EPOCHS * self.TAG_EPOCHS

    def as_dict(self) -> dict[str, object]:
        """Return every choice for the manifest's provenance."""
        return asdict(self)


@dataclass(frozen=True)
class RetrainRecipe:
    """Hyperparameters of going on from a release with what people have confirmed.

    A step has `replayed` anchors of the catalogue, `confirmed` anchors of confirmed matches, each with a partner, and
    `doubted` pairs of which people say, or may mean, that they are mismatches. An item is drawn in proportion to how
    many products it stands for, but as for no more than `largest_weight` times the median item. Of a catalogue at most
    `replay_products` are used. A word becomes a token, with the small family, when `new_word_products` texts have it.
    """

    seed: int
    steps: int = 240
    word_steps: int = 300
    replayed: int = 6
    confirmed: int = 10
    doubted: int = 6
    largest_weight: float = 10.0
    replay_products: int = 3000
    new_word_products: int = 10
    learning_rate: float = 3e-4
    word_learning_rate: float = 3e-3
    weight_decay: float = 0.03
    warmup_steps: int = 30
    teaching_weight: float = 0.3
    doubted_weight: float = 0.3
    average_decay: float = 0.98
    replay_mix: dict[str, float] = field(
        default_factory=lambda: {"random": 0.05, "category": 0.15, "sibling": 0.5, "neighbour": 0.3}
    )
    confirmed_mix: dict[str, float] = field(default_factory=lambda: {"random": 0.05, "category": 0.25, "sibling": 0.7})

    def as_dict(self) -> dict[str, object]:
        """Return every choice for the manifest's provenance."""
        return asdict(self)
