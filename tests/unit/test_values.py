"""`engines.build.values`: labels that people have typed contradict each other, or do not."""

from __future__ import annotations

import pytest

from engines.build.values import Values, words

LABELS = ("Black/White", "Blue", "Multicolor", "Navy Blue", "Red", "White, black", "")


@pytest.mark.parametrize(
    ("said", "others"),
    [
        ("Red", {"Black/White", "Blue", "Navy Blue", "White, black"}),
        ("BLUE", {"Black/White", "Red", "White, black"}),
        ("White/Black", {"Blue", "Navy Blue", "Red"}),
        ("Multicolor", set[str]()),
        ("", set[str]()),
        ("Green", {"Black/White", "Blue", "Navy Blue", "Red", "White, black"}),  # no label of these products
    ],
)
def test_values_without_a_word_in_common_contradict(said: str, others: set[str]) -> None:
    """Order, case and shades make no other color; what says nothing certain contradicts nothing."""
    values = Values(LABELS, colors=True)
    found = values.contradicting(words(said))
    assert {name for name, other in zip(values.names, found, strict=True) if other} == others


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Grey", "Gray melange"),
        ("Off-White", "offwhite"),
        ("Blau", "Dunkelblau"),
        ("\u84dd\u8272", "\u6df1\u84dd\u8272"),  # blue, dark blue
        ("Unknown", "Red"),
        ("Not specified", "Red"),
        ("Printed", "Red"),
        ("Multicoloured", "Red"),
    ],
)
def test_colors_that_may_be_one_do_not_contradict(one: str, other: str) -> None:
    """Spellings, compounds of languages that write them as one word, and what people write where they know nothing."""
    values = Values([one, other], colors=True)
    assert not values.contradicting(words(one)).any()
    assert not values.contradicting(words(other)).any()


@pytest.mark.parametrize(
    ("one", "other"), [("Rot", "Blau"), ("\u84dd\u8272", "\u7ea2\u8272"), ("Tan", "Black")], ids=["de", "zh", "en"]
)
def test_colors_that_share_no_name_contradict(one: str, other: str) -> None:
    """Red and blue do, in any script."""
    assert Values([one, other], colors=True).contradicting(words(one)).sum() == 1


def test_values_that_are_no_colors_contradict_though_one_holds_the_other() -> None:
    """`male` is in `female`."""
    assert Values(["female", "male"]).contradicting(words("male")).tolist() == [True, False]
