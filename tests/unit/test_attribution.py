"""`engines.attribution`: what a text claims, what is left out of it, and what an engine's answers then say."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.attribution import MAX_CLAIMS, Claim, claims, leave_out, rank
from engines.contract import TextSpec
from engines.text import OTHER_FIELDS, compose

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPEC = TextSpec(max_tokens=64, fields=("title", "color", "product_type", OTHER_FIELDS, "description"))
TEXT = (
    "title: Acme Navy Cushions by Nova, Set of 4\n"
    "color: Navy\n"
    "product_type: Home > Pillows\n"
    "description: A cushion in navy. Contents: 4 pieces. Free returns."
)


def both(text: str) -> list[Claim]:
    """Return facts and other words."""
    facts, others = claims(text)
    return [*facts, *others]


def words(claim: Claim, text: str = TEXT) -> list[str]:
    """Return what stands where the claim is mentioned."""
    return [text[start:end] for start, end in claim.spans]


def spans_of(text: str, tokens: int = 64) -> NDArray[np.int32]:
    """Return the spans of a text whose words are its tokens."""
    found = [m.span() for m in re.finditer(r"\w+|[^\w\s]", text)]
    return np.array([*found, *[(0, 0)] * tokens][:tokens], dtype=np.int32)


def test_claims_field_takes_every_mention_of_its_words() -> None:
    """A colour is left out of the title and the description together with its field."""
    color = next(claim for claim in both(TEXT) if claim.field == "color")
    assert words(color) == ["Navy", "Navy", "navy"]


def test_claims_quantity_is_one_claim_wherever_it_stands() -> None:
    """`Set of 4` and `4 pieces` say the same, and stand in the field that says it first."""
    quantity = next(claim for claim in both(TEXT) if claim.value == "Set of 4")
    assert quantity.field == "title"
    assert words(quantity) == ["Set of 4", "4 pieces"]


def test_claims_title_words_that_no_field_states_are_claims() -> None:
    """In the order of the title, without function words, singular and plural together."""
    titled = {claim.value: words(claim) for claim in both(TEXT) if claim.field == "title"}
    assert list(titled) == ["Set of 4", "Acme", "Cushions", "Nova"]
    assert titled["Cushions"] == ["Cushions", "cushion"]


def test_claims_description_is_read_by_sentence() -> None:
    """A sentence claims what no other claim has taken; one with nothing left is none."""
    described = {claim.value: words(claim) for claim in both(TEXT) if claim.field == "description"}
    assert described == {"Contents: 4 pieces.": ["Contents"], "Free returns.": ["Free", "returns"]}


@pytest.mark.parametrize(
    ("one", "other"),
    [("mugs", "Mug"), ("dresses", "dress"), ("watches", "watch"), ("boxes", "box"), ("accessories", "accessory")],
)
def test_claims_plural_and_singular_are_one_word(one: str, other: str) -> None:
    """A category in the plural is mentioned by a title in the singular."""
    text = f"title: {one}\nproduct_type: {other}"
    (claim,) = both(text)
    assert words(claim, text) == [other, one]


def test_claims_words_that_only_look_alike_stay_apart() -> None:
    """`glass` is no plural, and `red` does not stand in `tailored`."""
    text = "title: Tailored glass\ncolor: red\nmaterial: gla"
    assert [words(claim, text) for claim in both(text)] == [["red"], ["gla"], ["Tailored"], ["glass"]]


def test_leave_out_masks_the_claim_and_nothing_else() -> None:
    """Every other token keeps its place and is read."""
    spans = spans_of(TEXT)
    mask = (spans[:, 1] > 0).astype(np.int32)
    left_out = leave_out(TEXT, spans, mask)
    color = [claim.field for claim in left_out.claims].index("color")
    gone = [TEXT[start:end] for start, end in spans[(mask - left_out.attention_mask[color]) > 0]]
    assert gone == ["Navy", "Navy", "navy"]


def test_leave_out_ignores_what_the_engine_does_not_read() -> None:
    """A claim beyond the last token cannot have been the reason."""
    spans = spans_of(TEXT, tokens=6)  # title : Acme Navy Cushions by
    left_out = leave_out(TEXT, spans, np.ones(6, dtype=np.int32))
    assert [claim.value for claim in left_out.claims] == ["Navy", "Acme", "Cushions"]
    assert left_out.facts == 1


def test_leave_out_many_attributes_leave_room_for_the_title() -> None:
    """The number of inferences is bounded, and an endless catalogue entry does not hide the title."""
    fields = {"title": "Walnut desk"} | {f"attribute_{n}": f"value{n}" for n in range(60)}
    text = compose(fields, TextSpec(max_tokens=400, fields=("title", OTHER_FIELDS)))
    left_out = leave_out(text, spans_of(text, 400), np.ones(400, dtype=np.int32))
    assert len(left_out.claims) == len(left_out.attention_mask) == MAX_CLAIMS
    assert {"Walnut", "desk"} <= {claim.value for claim in left_out.claims}


def test_leave_out_text_without_claims_gives_no_variants() -> None:
    """There is nothing to leave out of function words."""
    left_out = leave_out("title: of the", spans_of("title: of the", 8), np.ones(8, dtype=np.int32))
    assert left_out.claims == ()
    assert left_out.attention_mask.shape == (0, 8)


field_texts = st.dictionaries(
    st.sampled_from(["title", "color", "description", "product_type", "count: of"]) | st.text(min_size=1, max_size=5),
    st.text(max_size=60) | st.sampled_from(["Set of 4", "2-pack of mugs. Two!", "navy navy"]),
    max_size=6,
)


@given(fields=field_texts)
def test_leave_out_of_arbitrary_text_only_takes_away(fields: dict[str, str]) -> None:
    """Whatever a catalogue writes, each claim stands in the text, and each mask is the text's own with less in it."""
    text = compose(fields | {"color": "red"}, SPEC)
    spans = spans_of(text)
    mask = (spans[:, 1] > 0).astype(np.int32)
    left_out = leave_out(text, spans, mask)
    assert all(0 <= start < end <= len(text) for claim in both(text) for start, end in claim.spans)
    assert len(left_out.claims) == len(left_out.attention_mask) <= MAX_CLAIMS
    assert (left_out.attention_mask <= mask).all()
    assert (left_out.attention_mask.sum(axis=1) < mask.sum()).all()


def test_rank_names_the_claim_whose_absence_lowers_the_logit_most() -> None:
    """Shares are of the whole fall; what falls little is not named."""
    made = [Claim(name, name, ((0, 1),)) for name in ("color", "brand", "title", "material")]
    named = rank(made, 5.0, [1.0, 5.5, 4.0, 4.9])
    assert [(n.claim.field, round(n.share, 3)) for n in named] == [("color", 0.784), ("title", 0.196)]


def test_rank_without_any_fall_names_nothing() -> None:
    """Where no claim matters alone, none is accused."""
    assert rank([Claim("color", "red", ((0, 1),))], 2.0, [2.5]) == []
