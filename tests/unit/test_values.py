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
    values = Values(LABELS)
    found = values.contradicting(words(said))
    assert {name for name, other in zip(values.names, found, strict=True) if other} == others
