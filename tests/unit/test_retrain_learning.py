"""What a retraining learns from: parts that stay, weights that are clipped, words that are new; and how it goes on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
import tokenizers
import torch
from rich.progress import Progress

from engines.build import held_out, restore
from engines.build.assemble import Source
from engines.build.dataset import Catalog, Product
from engines.build.evaluate import Pairs
from engines.build.models.small import SmallConfig, SmallFusion
from engines.build.recipe import RetrainRecipe
from engines.build.retrain import apart, catalogue, confirmed, taught, tune_small
from engines.build.retrain.confirmed import TEST, TRAINING, VALIDATION
from engines.build.vocabulary import new_words, train_tokenizer
from engines.catalogs import judged
from engines.contract import ImageSpec, TextSpec
from engines.errors import CatalogInvalid, LabelsInvalid
from tests import retraining

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("one_torch_thread")

IMAGE = ImageSpec(height=retraining.SIDE, width=retraining.SIDE)
TEXT = TextSpec(max_tokens=12, fields=("title", "color"))


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> confirmed.Confirmed:
    """What people say of 120 tiles."""
    folder = retraining.write_labels(tmp_path_factory.mktemp("labels"), count=120)
    with Progress(disable=True) as progress:
        return confirmed.read_confirmed(folder, image=IMAGE, progress=progress)


def tiles() -> Catalog:
    """Return 48 tiles of three colors."""
    colors = list(retraining.KNOWN)
    products = tuple(
        Product(
            fields={"title": f"{colors[i % 3]} tile", "color": colors[i % 3]},
            facets=(),
            identity=i % 3,
            group=str(i // 3),
            category="tiles",
            id=f"tile-{i}",
        )
        for i in range(48)
    )
    pixels = np.stack([np.full((3, *(retraining.SIDE,) * 2), 40, np.uint8) + np.uint8(60 * (i % 3)) for i in range(48)])
    return Catalog(products, (), pixels, np.arange(48))


def source() -> Source:
    """Return a small model that knows the tiles' words and has learned nothing."""
    texts = [f"title: {product.fields['title']}\ncolor: {product.fields['color']}" for product in tiles().products]
    vocabulary = train_tokenizer(texts, size=120)
    torch.manual_seed(0)
    config = SmallConfig(
        vocabulary.get_vocab_size(), retraining.SIDE, 12, channels=(4, 8, 8, 16), width=16, layers=2, heads=2
    )
    return Source("small", SmallFusion(config).eval(), vocabulary, IMAGE, TEXT, {})


def test_part_of_a_group_never_changes() -> None:
    """The shares are as stated, and what is held out is decided by the group's name alone."""
    parts = [confirmed.part_of(f"group-{number}") for number in range(4000)]
    assert parts == [confirmed.part_of(f"group-{number}") for number in range(4000)]
    for part, share in confirmed.SHARES:
        assert parts.count(part) / 4000 == pytest.approx(share, abs=0.03)


def test_groups_stay_whole_and_pictures_of_held_out_items_are_not_trained_on(people: confirmed.Confirmed) -> None:
    """Variants are in one part; an item that shows what a held-out one shows is in none."""
    by_group: dict[str, set[str]] = {}
    for item, part in zip(people.judged, people.part.tolist(), strict=True):
        by_group.setdefault(item.group, set()).add(part)
    assert all(len(parts - {""}) <= 1 for parts in by_group.values())
    assert set(people.part.tolist()) == {TRAINING, VALIDATION, TEST}
    copies = [msgspec.structs.replace(people.judged[0], item_group_id=f"other-{number}") for number in range(40)]
    assert set(confirmed._parts(copies).tolist()) == {"", VALIDATION, TEST}


def test_pairs_of_uncertain_items_count_as_both(people: confirmed.Confirmed) -> None:
    """An item that is a mismatch with 0.8 has four fifths of its weight there, and one fifth among the matches."""
    few = people.rows(np.arange(120) < 2)
    few = replace(few, votes=few.votes._replace(mismatch=np.array([0.8, 0.0]), weight=np.array([2.0, 1.0])))
    pairs, weights, likely = confirmed.pairs_of(few)
    assert sorted(zip(pairs.product.tolist(), pairs.label.tolist(), strict=True)) == [(0, 0), (0, 1), (1, 0)]
    share = weights / weights.sum()
    found = dict(zip(zip(pairs.product.tolist(), pairs.label.tolist(), strict=True), share.tolist(), strict=True))
    assert found[0, 1] == pytest.approx(1.6 / 3)
    assert found[0, 0] == pytest.approx(0.4 / 3)
    assert weights.mean() == pytest.approx(1.0)
    plain = zip(pairs.product[likely].tolist(), pairs.label[likely].tolist(), strict=True)
    assert sorted(plain) == [(0, 1), (1, 0)]


def test_labels_that_nobody_gave_are_refused(tmp_path: Path) -> None:
    """All reviewers were unsure; a folder that was never pinned says who writes it."""
    with Progress(disable=True) as progress:
        with pytest.raises(LabelsInvalid, match="streamer retrain"):
            confirmed.read_confirmed(tmp_path, image=IMAGE, progress=progress)
        judged.write_pinned(tmp_path, [], judged.Pinned(dataset="d", version=1, items=0, verdicts=0))
        with pytest.raises(LabelsInvalid, match="nobody has judged") as caught:
            confirmed.read_confirmed(tmp_path, image=IMAGE, progress=progress)
    assert caught.value.code == "labels_too_few"


def test_taught_draws_items_by_what_they_stand_for_up_to_the_limit(people: confirmed.Confirmed) -> None:
    """An item that stands for a thousand products is drawn as one that stands for ten times the median."""
    weight = np.ones(120)
    rows = np.nonzero((people.part == TRAINING) & (people.votes.mismatch <= confirmed.SURELY_RIGHT))[0]
    weight[rows[0]] = 1000.0
    heavy = replace(people, votes=people.votes._replace(weight=weight))
    recipe = RetrainRecipe(seed=0, largest_weight=10.0, replay_products=12)
    learned = taught.teach(tiles(), heavy, recipe)
    assert learned.matches.chance.sum() == pytest.approx(1.0)
    assert learned.matches.chance.max() / np.median(learned.matches.chance) == pytest.approx(10.0)
    assert learned.clipped == pytest.approx(1 / int((people.part == TRAINING).sum()))
    assert (learned.mismatch > confirmed.SURELY_RIGHT).all()
    assert len(learned.doubted.chance) + len(learned.matches.chance) == int((people.part == TRAINING).sum())
    assert len(learned.replayed.catalog.products) == 12
    assert len({product.group for product in learned.replayed.catalog.products}) == 4


def test_held_out_products_are_held_out_again_and_their_like_is_left_out() -> None:
    """Of three connected products one is held out: the two others are in no part."""
    known = held_out.HeldOutProducts(
        validation=frozenset({held_out.mark("tile-0")}), test=frozenset({held_out.mark("tile-4")})
    )
    training, validation, test = catalogue._held_out(
        [product.id for product in tiles().products], [i // 3 for i in range(48)], known
    )
    assert (validation, test) == ([0], [4])
    assert training == list(range(6, 48))


def test_what_labels_or_the_benchmark_hold_out_is_learned_from_by_neither(people: confirmed.Confirmed) -> None:
    """By its id, its group or its picture a product is known again, whichever of the two holds it out.

    Neither is a threshold chosen with what the other one measures.
    """
    rows = {part: np.nonzero(people.part == part)[0].tolist() for part in (TRAINING, VALIDATION, TEST)}
    shop = tiles()
    products, pixels = list(shop.products), shop.pixel_values.copy()

    def show(number: int, row: int, **known: str) -> None:
        """Let a product of the shop be known by what an item is known by; without anything, by its picture."""
        products[number] = replace(products[number], **known)  # type: ignore[arg-type]
        pixels[number] = pixels[number] if known else people.catalog.pixel_values[row]

    for number, row in ((0, rows[TEST][0]), (40, rows[TRAINING][0]), (41, rows[TEST][1]), (46, rows[VALIDATION][1])):
        show(number, row, id=people.judged[row].product_id)
    for number, row in ((3, rows[VALIDATION][0]), (44, rows[TRAINING][10])):
        show(number, row, group=people.judged[row].group)
    for number, row in ((6, rows[TEST][-1]), (45, rows[TRAINING][-1])):
        show(number, row)
    full = replace(shop, products=tuple(products), pixel_values=pixels)
    training, validation, test = (full.subset(list(part)) for part in (range(40), range(40, 44), range(44, 48)))
    own, other = np.arange(4), np.array([1, 0, 3, 2])
    pairs = Pairs(np.tile(own, 2), np.concatenate([own, other]), np.repeat([0, 1], 4), np.repeat(["match", "other"], 4))
    told, parts, replayed = apart.keep_apart(catalogue.Parts("shop", training, validation, pairs, test, pairs), people)
    assert set(range(40)) - set(replayed) == {0, 3, 6}
    kept = parts.validation_pairs
    assert list(zip(kept.product.tolist(), kept.picture.tolist(), kept.label.tolist(), strict=True)) == [
        *((number, number, 0) for number in (0, 2, 3)),
        *((2, 3, 1), (3, 2, 1)),
    ]
    assert parts.test_pairs is pairs
    shared = {people.judged[rows[TRAINING][10]].group}
    gone = {rows[TRAINING][0], rows[TRAINING][-1], *(r for r in rows[TRAINING] if people.judged[r].group in shared)}
    gone.add(rows[VALIDATION][1])
    assert set(np.nonzero(told.part != people.part)[0].tolist()) == gone
    assert set(told.part[sorted(gone)].tolist()) == {""}
    learned = taught.teach(training, told, RetrainRecipe(seed=0), replayed=replayed)
    assert len(learned.replayed.catalog.products) == 37
    assert len(learned.doubted.chance) + len(learned.matches.chance) == len(rows[TRAINING]) - len(gone) + 1


def test_new_words_are_those_that_have_to_be_spelt() -> None:
    """A word counts once a text; the most frequent come first."""
    tokenizer = train_tokenizer(["a red mug", "a red cap"], size=60)
    texts = ["Starry lantern, starry", "a starry mug", "a lantern", "an owl"]
    assert new_words(tokenizer, texts, least=2) == ["lantern", "starry"]


def test_model_with_new_words_answers_as_before_where_they_are_not_said() -> None:
    """A new token begins as the mean of those that spelt it; old texts get the same ids."""
    before = source()
    grown = restore.with_words(before, ["deter", "tiler"])
    assert grown.tokenizer.encode("tiler").tokens == ["tiler"]
    assert isinstance(grown.tokenizer, tokenizers.Tokenizer)
    texts, again = before.encode(tiles()), grown.encode(tiles())
    assert np.array_equal(texts.input_ids, again.input_ids)
    arguments = [torch.from_numpy(tiles().pixel_values[:4]), *(torch.from_numpy(a[:4]) for a in texts[:2])]
    with torch.no_grad():
        torch.testing.assert_close(grown.model(*arguments), before.model(*arguments))
    before.tokenizer.no_padding()
    spelt = before.tokenizer.encode("tiler").ids
    assert isinstance(before.model, SmallFusion)
    assert isinstance(grown.model, SmallFusion)
    torch.testing.assert_close(grown.model.words.weight[-1], before.model.words.weight[spelt].mean(dim=0))


class CutError(Exception):
    """The run is killed here."""


def test_tuning_cut_and_started_again_gives_the_same_model(people: confirmed.Confirmed, tmp_path: Path) -> None:
    """A run that is killed behind its first checkpoint goes on from it, and ends where the other one does."""
    recipe = RetrainRecipe(seed=0, steps=60, word_steps=5, new_word_products=3, warmup_steps=2)
    learned = taught.teach(tiles(), people, recipe)

    def tune(folder: Path, cut_at: int | None = None) -> tuple[Source, list[int]]:
        seen: list[int] = []
        folder.mkdir(exist_ok=True)

        def on_step(done: int, _: int) -> None:
            seen.append(done)
            if done == cut_at:
                raise CutError

        with Progress(disable=True) as progress:
            return tune_small.tune(source(), learned, recipe, folder, on_step=on_step, progress=progress), seen

    whole, _ = tune(tmp_path / "whole")
    with pytest.raises(CutError):
        tune(tmp_path / "cut", cut_at=50)
    again, seen = tune(tmp_path / "cut")
    assert seen == list(range(41, 61))
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[name], value)


def test_tuning_leaves_the_eyes_as_they_are(people: confirmed.Confirmed, tmp_path: Path) -> None:
    """Convolutions and where tokens stand do not move; words do."""
    recipe = RetrainRecipe(seed=0, steps=3, word_steps=2, new_word_products=3)
    learned = taught.teach(tiles(), people, recipe)
    with Progress(disable=True) as progress:
        tuned = tune_small.tune(source(), learned, recipe, tmp_path, on_step=lambda *_: None, progress=progress)
    before, after = source().model.state_dict(), tuned.model.state_dict()
    for name, value in before.items():
        if name.startswith(("stem.", "project.", "image_positions")):
            torch.testing.assert_close(after[name], value)
    assert not torch.equal(after["words.weight"][: len(before["words.weight"])], before["words.weight"])
    assert len(after["words.weight"]) > len(before["words.weight"])  # amber and violet


def test_tuning_with_nothing_to_exchange_says_so(people: confirmed.Confirmed, tmp_path: Path) -> None:
    """All products show the same and nothing is confirmed."""
    same = tiles().subset([0, 3, 6])
    nobody = people.rows(np.zeros(120, dtype=np.bool_))
    learned = taught.teach(same, nobody, RetrainRecipe(seed=0))
    with Progress(disable=True) as progress, pytest.raises(CatalogInvalid, match="nothing to exchange"):
        tune_small.tune(source(), learned, RetrainRecipe(seed=0), tmp_path, on_step=lambda *_: None, progress=progress)
