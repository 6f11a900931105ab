"""What a survey says of a feed that nobody has seen: what is missing, what is no text, what is not read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from engines.build.recipe import AdaptRecipe
from engines.catalogs.collection import Refusal
from engines.catalogs.survey import Reading, take_survey, write_survey
from engines.catalogs.survey.notes import notes
from engines.text import Tokenizer
from streamer.adapt import MAX_TOKENS, max_tokens_of
from streamer.token_counts import SPEC, compact_counter, counter
from tests.unit.test_survey import mug, picture, quiet, write_folder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from engines.catalogs.survey.figures import Survey

PICTURES = {f"{n}.png": picture("red", (40 + n, 30)) for n in range(10)}
WHOLE = {"color": "Red", "product_type": "Mugs"}


def survey_of(folder: Path, reading: Reading | None = None) -> Survey:
    """Return the figures."""
    return take_survey(folder, progress=quiet(), reading=reading)


def said(survey: Survey, tone: str = "bad") -> str:
    """Return the notes of one tone."""
    return "\n".join(note.text for note in notes(survey) if note.tone == tone)


def test_survey_without_title_category_and_color_says_what_to_do(tmp_path: Path) -> None:
    """Each is a note of its own, with the option to give and the columns that may be it."""
    rows: list[dict[str, Any]] = [{"id": str(n), "image_link": "0.png", "Farbe": "rot"} for n in range(3)]
    found = said(survey_of(write_folder(tmp_path / "shop", rows, PICTURES)))
    for name in ("title", "product_type", "color"):
        assert f"No column is read as {name}: " in found
        assert f"--column {name}=COLUMN; columns that may be it: Farbe." in found
    whole = write_folder(tmp_path / "whole", [mug(1, "0.png", **WHOLE)], PICTURES)
    assert "No column is read as" not in said(survey_of(whole))


def test_survey_columns_tell_which_are_no_text(tmp_path: Path) -> None:
    """By name, or since nearly every product has a code of its own there; they are counted all the same."""
    rows = [mug(n, "0.png", gtin=f"{n:08}", style=f"AB-{n:04}", stock=n % 3, season="Summer") for n in range(40)]
    survey = survey_of(write_folder(tmp_path / "shop", rows, PICTURES))
    columns = {column.name: column for column in survey.columns}
    assert {name for name, one in columns.items() if one.text} >= {"title", "description", "season"}
    assert not any(columns[name].text for name in ("gtin", "style", "stock", "price"))
    assert columns["gtin"].filled == 40
    assert "No text, since no picture shows it: style, gtin, stock." in said(survey, "plain")


def test_survey_rows_with_the_same_id_are_told(tmp_path: Path) -> None:
    """Which of them counts is said."""
    folder = write_folder(tmp_path / "shop", [mug(1, "0.png")], PICTURES)
    refusal = Refusal(line=1, id="1", title="Old", reason="id_duplicate", message="row 2 has the same id")
    (folder / "refused.jsonl").write_bytes(msgspec.json.encode(refusal) + b"\n")
    assert "1 rows have an id that a later row has again: the last one counts" in said(survey_of(folder), "plain")


def placeholder_shop(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Write a shop of these products and of twenty with pictures of their own."""
    own = {f"own-{n}.png": picture("blue", (50 + n, 20)) for n in range(20)}
    return write_folder(folder, [*rows, *[mug(100 + n, f"own-{n}.png") for n in range(20)]], own | PICTURES)


def test_survey_placeholder_is_named_and_shown(tmp_path: Path) -> None:
    """Five products of different titles with one picture, which may be any of their pictures."""
    rows = [mug(n, "0.png") for n in range(4)] + [mug(4, "1.png", additional_image_link=["0.png"])]
    folder = placeholder_shop(tmp_path / "shop", rows)
    (found,) = survey_of(folder).placeholders
    assert (found.file, found.products, found.titles) == ("0.png", 5, 5)
    (note,) = [note for note in notes(survey_of(folder)) if note.picture]
    assert note.tone == "bad"
    assert "5 products with 5 different titles share the picture 0.png" in note.text
    assert (
        '<li class="bad"><img src="data:image/jpeg;base64,'
        in write_survey(folder, tmp_path / "page", progress=quiet()).read_text()
    )


@pytest.mark.parametrize(
    "more", [{"title": "Mug"}, {"item_group_id": "mugs"}, {"image_link": "5.png"}], ids=["title", "group", "few"]
)
def test_survey_picture_of_one_product_in_several_rows_is_no_placeholder(tmp_path: Path, more: dict[str, str]) -> None:
    """One title, or one item group, may well share a picture; and so may four products."""
    rows = [mug(n, "0.png") | more for n in range(1 if "image_link" in more else 0, 5)]
    assert survey_of(placeholder_shop(tmp_path / "shop", rows)).placeholders == ()


def test_survey_picture_of_few_among_many_is_no_placeholder(tmp_path: Path) -> None:
    """In a large catalogue five products are less than one in a hundred."""
    rows = [mug(n, "0.png" if n < 5 else f"{n % 7 + 1}.png", title=f"Mug {n}" if n < 5 else "Mug") for n in range(500)]
    assert survey_of(write_folder(tmp_path / "shop", rows, PICTURES)).placeholders == ()


def reading(max_tokens: int) -> Reading:
    """Return what reads with a tokenizer that knows four words."""
    words = ("[PAD]", "[UNK]", "title", ":", "Mug", "red")
    tokenizer = tokenizers.Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return Reading(counter(Tokenizer(tokenizer, SPEC)), max_tokens)


def test_survey_texts_that_are_cut_or_unknown_are_told(tmp_path: Path) -> None:
    """How many of the texts, what to give, and that the encoder is English."""
    titles = ["Mug red red red red red", "Mug", "Becher", "Mug"]
    folder = write_folder(tmp_path / "shop", [mug(n, "0.png", title=title) for n, title in enumerate(titles)], PICTURES)
    survey = survey_of(folder, reading(6))
    assert survey.tokens is not None
    assert (survey.tokens.products, survey.tokens.cut, survey.tokens.pieces) == (4, 0.25, 1.0)
    assert survey.tokens.unknown == pytest.approx(1 / 17)
    assert "25% of the texts have more than 6 tokens and lose their end: --max-tokens 16 keeps 95 %" in said(survey)
    assert "5.9% of what the texts say is unknown to compact's text encoder, which is English" in said(survey)
    assert "tokens" not in said(survey_of(folder, reading(8)))


@pytest.mark.parametrize(("title", "english"), [("Blue stoneware teapot", True), ("Синий керамический чайник", False)])
def test_survey_words_in_pieces_are_another_language(tmp_path: Path, title: str, english: bool) -> None:
    """MiniLM spells Russian letter by letter, and knows every letter."""
    count = compact_counter()
    assert count is not None
    folder = write_folder(tmp_path / "shop", [mug(1, "0.png", title=title)], PICTURES)
    assert ("Words fall into" in said(survey_of(folder, Reading(count, 64)))) is not english


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--family", "compact"], MAX_TOKENS),
        (["--seed", "1", "--max-tokens", "96"], 96),
        (["--max-tokens=128", "--attributes"], 128),
        (["--family", "clip", "--max-tokens", "77"], None),
    ],
)
def test_max_tokens_are_those_of_the_training_program(options: list[str], expected: int | None) -> None:
    """Its options pass through here; another family has another text encoder."""
    assert max_tokens_of(options) == expected
    assert AdaptRecipe(seed=0).max_tokens == MAX_TOKENS
