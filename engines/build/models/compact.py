"""The compact family: pretrained backbones that come as packages and stay as they are, and readers of our own.

    picture → EfficientNet-Lite2 → 8 x 8 cells ┐
            → palette (how much of which color)┴→ image tokens ─┐ (keys and values)
    text    → MiniLM-L6 → text tokens → [self-attention → cross-attention → feed-forward] → evidence of each token
                                                                    → logit

A text is contradicted when ANY of its words is: a reader's logit is a soft maximum over the words' evidence. Beside it
stand three signals that need no attention: the similarity of picture and text as a whole, a dual encoder's, which finds
absurd swaps best; for each facet (color, product type, ...) the surprise of seeing what the picture shows where the
text states another value; and how far the words that the picture should have deny those that it has
(`engines.build.models.tagger`).

A text like none that was trained on makes its own picture look wrong, too: its novelty, the share of its words that no
single training text has, speaks against a mismatch (`engines.build.models.novelty`).

A picture is wrong in a detail, or it is of something else altogether, and each way shows in other signals: the logit is
the soft maximum of two weighted sums. Their weights are fitted on held-out pairs (`engines.build.weighing`), never
trained, so that the fusion layers cannot lean on the other signals.

A catalogue has few products and some of them are wrong, so a single model that fits it well is sure of its errors, and
those come first in any ranking: several small readers are trained, each from another start, and their logits averaged.

Sources: Tan, Le 2019 (EfficientNet) and its "Lite" variant; Wang et al. 2020 (MiniLM); Li et al. 2022 (BLIP: a text
encoder with cross-attention as image-text matcher); Lakshminarayanan et al. 2017 (ensembles).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from engines.build.models.attributes import AttributeSpec, Resampler
from engines.build.models.backbones import ImageBackbone, text_backbone
from engines.build.models.dropout import Dropout
from engines.build.models.fusion_layer import FusionLayer
from engines.build.models.novelty import Novelty
from engines.build.models.palette import Palette
from engines.build.models.tagger import DENIALS, Tagger

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

FAMILY: Final = "compact"

TEXT_STATES: Final = 384  # MiniLM's width
_CELL: Final = 32  # pixels a side of one image token
_CHANNELS: Final = ImageBackbone.final_channels + 4 * ImageBackbone.middle_channels  # of a cell, beside its colors
WAYS: Final = 2
"""In which a picture is wrong: in a detail, and altogether."""

_SUMMARY: Final = 256
_SUMMARY_TOKENS: Final = 2
_MASKED: Final = -1e4  # added to what must not count: no weight, and still finite in 16 bits
_TYPICAL_TOKENS: Final = 30.0
_SMALLEST_DEVIATION: Final = 1e-3
_LEAST_UNLIKE: Final = 1e-3  # a picture of one color has an object, too
_COLOR_SCALE, _COLOR_CENTER = 3.0, 0.3  # the root of a share, brought to the other features' size


class Sight(NamedTuple):
    """What the frozen parts see of B pictures of side H.

    `middle` (B, 88, H / 16, H / 16), and, on cells of 32 pixels, `final` (B, 352, H / 32, H / 32) and `palette`
    (B, K, H / 32, H / 32).
    """

    middle: Tensor
    final: Tensor
    palette: Tensor


class Looked(NamedTuple):
    """What a reader makes of B pictures: `tokens` (B, N, C), a `summary` (B, 256), and of each facet logits (B, V)."""

    tokens: Tensor
    summary: Tensor
    facets: tuple[Tensor, ...]


class Signals(NamedTuple):
    """What speaks for a mismatch (`fusion`, `surprise`, `denial`) and against it (`similarity`, `novelty`).

    (B,), (B, F), (B,), (B, 2), (B, 1); a single reader says nothing of denial and novelty, (B, 0).
    """

    fusion: Tensor
    surprise: Tensor
    similarity: Tensor
    denial: Tensor
    novelty: Tensor

    def columns(self) -> Tensor:
        """Return all signals side by side, each the greater the less the pair matches: fusion first, (B, S)."""
        alone = self.fusion[:, None], -self.similarity[:, None]
        return torch.cat([*alone, self.surprise, self.denial, -self.novelty], dim=1)


@dataclass(frozen=True)
class CompactConfig:
    """Sizes of what is ours: 1.1 M parameters a reader, beside the backbones' 2.9 M and 22.6 M.

    `facets` says how many values each facet of the catalogue has (`engines.build.facets`), `tags` how many words the
    taggers know (`engines.build.tagging`), `known_texts` how many training texts novelty is told from.
    """

    image_size: int = 256
    max_tokens: int = 64
    width: int = 128
    layers: int = 1
    heads: int = 4
    joint: int = 128
    dropout: float = 0.3
    readers: int = 4
    taggers: int = 3
    tags: int = 0
    known_texts: int = 0
    facets: tuple[int, ...] = ()
    attributes: AttributeSpec | None = None

    def as_dict(self) -> dict[str, object]:
        """Return the sizes for the manifest's provenance."""
        return asdict(self)


class CompactFusion(nn.Module):
    """`forward(pixel_values, input_ids, attention_mask[, attributes]) -> logits`, as every family."""

    signal_weights: Tensor
    signal_biases: Tensor

    def __init__(self, config: CompactConfig, *, pretrained: bool = True) -> None:
        super().__init__()
        self.config = config
        self.backbone = ImageBackbone(pretrained=pretrained)
        text: Any = text_backbone(pretrained=pretrained)
        self.text_backbone = text
        self.palette = Palette()
        self.readers = nn.ModuleList(Reader(config, self.palette.size) for _ in range(config.readers))
        vocabulary = int(text.config.vocab_size)
        count = config.taggers if config.tags else 0
        pooled = pooled_size(self.palette.size)
        self.taggers = nn.ModuleList(Tagger(pooled, config.tags, vocabulary) for _ in range(count))
        known = config.known_texts
        self.novelty = Novelty(known, config.max_tokens, vocabulary) if known else None
        signals = 2 + len(config.facets) + (DENIALS if count else 0) + (1 if known else 0)
        self.register_buffer("signal_weights", torch.eye(WAYS, signals))
        self.register_buffer("signal_biases", torch.tensor([0.0, _MASKED]))  # fusion alone, until they are fitted

    def forward(
        self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor, attributes: Tensor | None = None
    ) -> Tensor:
        """Return logits (B,), the log-odds that picture and text do NOT match.

        Args:
            pixel_values: uint8 (B, 3, 256, 256), RGB 0..255.
            input_ids: int32 (B, T).
            attention_mask: int32 (B, T), 1 on real tokens.
            attributes: float32 (B, A, 2), or None; see `engines.build.models.attributes`.
        """
        states = self.text_backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        signals = self.signals(self.see(pixel_values), input_ids, states, attention_mask, attributes)
        return either(signals.columns() @ self.signal_weights.T + self.signal_biases)

    def each_reader(self) -> list[Reader]:
        """Return the readers, typed."""
        return [cast("Reader", reader) for reader in self.readers]

    def each_tagger(self) -> list[Tagger]:
        """Return the taggers, typed."""
        return [cast("Tagger", tagger) for tagger in self.taggers]

    def see(self, pixel_values: Tensor) -> Sight:
        """Return what the frozen parts see of pictures, uint8 (B, 3, H, W)."""
        middle, final = self.backbone(pixel_values)
        return Sight(middle, final, self.palette(pixel_values))

    def signals(
        self, sight: Sight, input_ids: Tensor, states: Tensor, mask: Tensor, attributes: Tensor | None
    ) -> Signals:
        """Return what the readers say on average of pictures and of texts' states (B, T, 384), and the taggers."""
        each = [reader(sight, input_ids, states, mask, attributes) for reader in self.each_reader()]
        signals = Signals(*(torch.stack(one).mean(dim=0) for one in zip(*each, strict=True)))
        if self.novelty is not None:
            signals = signals._replace(novelty=self.novelty(input_ids, mask))
        if not len(self.taggers):
            return signals
        pooled = pool(sight)
        tags = torch.stack([tagger(pooled) for tagger in self.each_tagger()]).mean(dim=0)
        return signals._replace(denial=self.each_tagger()[0].denial(tags, input_ids, mask))

    def standardise_by(self, sights: Iterable[Sight]) -> None:
        """Set the mean and deviation of all pooled features from those of a training set."""
        pooled = torch.cat([pool(sight) for sight in sights])
        standardised: list[Reader | Tagger] = [*self.each_reader(), *self.each_tagger()]
        for one in standardised:
            one.center.copy_(pooled.mean(dim=0))
            one.deviation.copy_(pooled.std(dim=0) + _SMALLEST_DEVIATION)


class Reader(nn.Module):
    """What attends: `forward(sight, input_ids, states, mask, attributes) -> Signals`, and the steps on the way."""

    center: Tensor
    deviation: Tensor

    def __init__(self, config: CompactConfig, colors: int) -> None:
        super().__init__()
        width, drop = config.width, config.dropout
        pooled, cells = pooled_size(colors), (config.image_size // _CELL) ** 2
        self.register_buffer("center", torch.zeros(pooled))
        self.register_buffer("deviation", torch.ones(pooled))
        self.summary = nn.Sequential(
            Dropout(0.2),
            nn.Linear(pooled, 2 * _SUMMARY),
            nn.GELU(),
            Dropout(0.4),
            nn.Linear(2 * _SUMMARY, _SUMMARY),
            nn.GELU(),
            Dropout(0.3),
        )
        self.shown = nn.ModuleList(nn.Linear(_SUMMARY, size + 1) for size in config.facets)
        self.stated = nn.ModuleList(nn.Linear(TEXT_STATES, size + 2) for size in config.facets)
        self.final_norm = nn.GroupNorm(1, ImageBackbone.final_channels, affine=False)
        self.middle_norm = nn.GroupNorm(1, 4 * ImageBackbone.middle_channels, affine=False)
        self.cells = nn.Sequential(Dropout(drop), nn.Linear(_CHANNELS + colors, width))
        self.cell_positions = nn.Parameter(torch.randn(1, cells, width) * 0.02)
        self.cell_norm, self.image_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.feed = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), Dropout(drop), nn.Linear(2 * width, width)
        )
        self.summary_tokens = nn.Linear(_SUMMARY, _SUMMARY_TOKENS * width)
        self.states = nn.Linear(TEXT_STATES, width)
        self.text_positions = nn.Parameter(torch.randn(1, config.max_tokens, width) * 0.02)
        self.text_norm = nn.LayerNorm(width)
        self.dropout = Dropout(drop)
        self.resampler = None if config.attributes is None else Resampler(config.attributes, width)
        self.layers = nn.ModuleList(FusionLayer(width, config.heads, drop) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.evidence = nn.Linear(width, 1)
        self.weights = nn.Linear(width, 1)  # of a cell in the picture's vector
        self.image_vector = nn.Linear(width + _SUMMARY, config.joint)
        self.text_vector = nn.Linear(width, config.joint)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(14.0)))

    def forward(
        self,
        sight: Sight,
        input_ids: Tensor,  # noqa: ARG002 - as of `CompactFusion.signals`
        states: Tensor,
        mask: Tensor,
        attributes: Tensor | None,
    ) -> Signals:
        """Return the signals of B pairs."""
        looked = self.look(sight)
        text, known = self.read(states, mask, attributes)
        similarity = (self.image_embedding(looked) * self.text_embedding(text, known)).sum(dim=-1)
        fusion, surprise = self.compare(looked.tokens, text, known), self.surprise(looked, states, mask)
        nothing = states.new_zeros(states.shape[0], 0)
        return Signals(fusion, surprise, similarity, denial=nothing, novelty=nothing)

    def look(self, sight: Sight) -> Looked:
        """Return tokens of the cells and of the whole picture, and what the picture shows of each facet."""
        summary = self.summary((pool(sight) - self.center) / self.deviation)
        colors = _COLOR_SCALE * sight.palette.sqrt() - _COLOR_CENTER
        middle = self.middle_norm(F.pixel_unshuffle(sight.middle, 2))
        grid = torch.cat([self.final_norm(sight.final), middle, colors], dim=1)
        cells = self.cell_norm(self.cells(grid.flatten(2).transpose(1, 2)) + self.cell_positions)
        cells = self.image_norm(cells + self.feed(cells))
        whole = self.image_norm(self.summary_tokens(summary).unflatten(1, (_SUMMARY_TOKENS, -1)))
        return Looked(torch.cat([cells, whole], dim=1), summary, tuple(classify(summary) for classify in self.shown))

    def read(self, states: Tensor, mask: Tensor, attributes: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return tokens (B, T + K, C) and mask (B, T + K): what the attributes say, behind what the text says."""
        text: Tensor = self.text_norm(self.states(states) + self.text_positions[:, : states.shape[1]])
        text = self.dropout(text)
        if self.resampler is None or attributes is None:
            return text, mask
        known = self.resampler(attributes)
        real = torch.ones_like(known[..., 0]).to(mask.dtype)
        return torch.cat([text, known], dim=1), torch.cat([mask, real], dim=1)

    def image_embedding(self, looked: Looked) -> Tensor:
        """Return the picture as one unit vector (B, J)."""
        cells = looked.tokens[:, :-_SUMMARY_TOKENS]
        seen = (self.weights(cells).softmax(dim=1) * cells).sum(dim=1) + cells.mean(dim=1)
        return F.normalize(self.image_vector(torch.cat([seen, looked.summary], dim=1)), dim=-1)

    def text_embedding(self, text: Tensor, mask: Tensor) -> Tensor:
        """Return the text as one unit vector (B, J)."""
        real = mask.to(text.dtype)[:, :, None]
        return F.normalize(self.text_vector((text * real).sum(dim=1) / real.sum(dim=1)), dim=-1)

    def compare(self, image: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        """Return the fusion layers' logits (B,).

        Args:
            image: (P, N, C); each is compared with as many texts, B / P, that stand one behind the other.
            text: (B, T, C).
            mask: (B, T).
        """
        padding = _padding(mask)
        for layer in self.layers:
            text = layer(text, image, padding[:, None, None, :])
        evidence = self.evidence(self.norm(text)).squeeze(-1)  # (B, T)
        return torch.logsumexp(evidence + padding, dim=1) - math.log(_TYPICAL_TOKENS)

    def states_of(self, states: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """Return logits (B, V + 2) of what texts state of each facet: its strongest word counts."""
        padding = _padding(mask)[:, :, None]
        return tuple(torch.logsumexp(classify(states) + padding, dim=1) for classify in self.stated)

    def surprise(self, looked: Looked, states: Tensor, mask: Tensor) -> Tensor:
        """Return (B, F): how unlikely the picture, in nats, holds what the text states.

        0 where the text states nothing, or a value that too few products had to be learned.
        """
        stated = [logits.softmax(dim=1)[:, :-2] for logits in self.states_of(states, mask)]
        shown = [logits.log_softmax(dim=1)[:, :-1] for logits in looked.facets]
        expected = [-(value * seen).sum(dim=1) for value, seen in zip(stated, shown, strict=True)]
        return torch.stack(expected, dim=1) if expected else states.new_zeros(states.shape[0], 0)


def either(ways: Tensor) -> Tensor:
    """Return the soft maximum, log(e^a + e^b), of the two columns (B, 2); finite wherever they are."""
    greater: Tensor = torch.maximum(ways[:, 0], ways[:, 1])
    return greater + F.softplus(-(ways[:, 0] - ways[:, 1]).abs())


def pool(sight: Sight) -> Tensor:
    """Return pictures' features over all cells, (B, D), and their colors: over all, the middle ones, and the object."""
    side = sight.palette.shape[-1]
    center = slice(side // 4, side - side // 4)
    shares = [part.mean(dim=(2, 3)) for part in (sight.palette, sight.palette[:, :, center, center])]
    colors = [part.sqrt() for part in (*shares, _of_object(sight.palette))]
    return torch.cat([sight.final.mean(dim=(2, 3)), sight.middle.mean(dim=(2, 3)), *colors], dim=1)


def pooled_size(colors: int) -> int:
    """Return D of `pool`."""
    return ImageBackbone.final_channels + ImageBackbone.middle_channels + 3 * colors


def _of_object(palette: Tensor) -> Tensor:
    """Return the colors (B, K) of cells (B, K, N, N), each weighed by how little its colors are those of the edge.

    Of a white page little is left, however much of the picture it fills. Likeness is the Bhattacharyya coefficient.
    """
    edges = (palette[:, :, 0], palette[:, :, -1], palette[:, :, 1:-1, 0], palette[:, :, 1:-1, -1])
    edge = torch.cat(edges, dim=2).mean(dim=2)[:, :, None, None]
    unlike = 1 - (palette * edge).sqrt().sum(dim=1, keepdim=True)
    weights = unlike.clamp(min=0) + _LEAST_UNLIKE
    return (palette * weights).sum(dim=(2, 3)) / weights.sum(dim=(2, 3))


def _padding(mask: Tensor) -> Tensor:
    """Return what is added to the scores of tokens (B, T): nothing, or for padding a very low number."""
    return torch.where(mask.bool(), 0.0, _MASKED)
