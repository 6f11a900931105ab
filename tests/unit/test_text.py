"""`engines.text`: what becomes of a product's fields, and of the texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers

from engines.contract import TextSpec
from engines.errors import ManifestInvalid, TextRefused
from engines.text import OTHER_FIELDS, Tokenizer, compose

if TYPE_CHECKING:
    from pathlib import Path

SPEC = TextSpec(max_tokens=8, fields=("color", "title", OTHER_FIELDS, "description"))
WORDS = ("[PAD]", "[UNK]", "color:", "red", "title:", "mug")


@pytest.fixture
def tokenizer_file(tmp_path: Path) -> Path:
    """Give a tokenizer.json that knows a few words."""
    model = models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def test_compose_orders_fields_as_the_spec_does() -> None:
    """Named fields stand where the spec puts them, all others where it says so."""
    fields = {"title": "Mug", "description": "Holds tea.", "color": "red", "motif": "cat", "size": "L"}
    assert compose(fields, SPEC) == "color: red\ntitle: Mug\nmotif: cat\nsize: L\ndescription: Holds tea."


def test_compose_spec_without_others_drops_them() -> None:
    """A field that the spec does not ask for is not read."""
    assert compose({"title": "Mug", "size": "L"}, TextSpec(max_tokens=8, fields=("title",))) == "title: Mug"


def test_compose_normalises_and_drops_control_characters() -> None:
    """Width variants, line breaks, zero-width and control characters do not make another text."""
    fields = {"title": "\uff2d\uff55\uff47\u200b\n red\x00\x1b[0m\t\u00a0 "}
    assert compose(fields, SPEC) == "title: Mug red[0m"


@pytest.mark.parametrize("fields", [{}, {"title": ""}, {"title": " \n"}, {"title": "—", "color": "\x00"}])
def test_compose_nothing_to_read_is_refused(fields: dict[str, str]) -> None:
    """A product without one letter or digit cannot be compared with a picture."""
    with pytest.raises(TextRefused) as caught:
        compose(fields, SPEC)
    assert caught.value.code == "text_empty"


def test_compose_reads_html_as_its_version_says() -> None:
    """An engine that was trained on tags and entities goes on reading them; from version 2 on none does."""
    fields = {"title": "<b>Mug</b>&trade;", "description": "<p>Holds<br>tea.</p>"}
    old = TextSpec(max_tokens=8, fields=SPEC.fields, version=1)
    assert compose(fields, old) == "title: <b>Mug</b>&trade;\ndescription: <p>Holds<br>tea.</p>"
    assert compose(fields, SPEC) == "title: MugTM\ndescription: Holds tea."
    assert SPEC.version == 2


def test_compose_text_behind_a_page_of_markup_is_read() -> None:
    """A field is cut after its tags are gone, not in them."""
    fields = {"description": "<div style='" + "x" * 1000 + "'>Holds tea.</div>"}
    assert compose(fields, SPEC) == "description: Holds tea."


def test_compose_huge_fields_stay_bounded() -> None:
    """A megabyte of text costs no more than what the engine reads."""
    text = compose({"description": "\ufdfa" * 1_000_000, "title": "x" * 1_000_000}, SPEC)
    assert len(text) <= SPEC.max_tokens * 16


@given(st.dictionaries(st.text(max_size=8), st.text(max_size=40), max_size=5))
def test_compose_any_unicode_gives_printable_lines_or_refusal(fields: dict[str, str]) -> None:
    """Any text becomes lines without control characters, or is refused."""
    try:
        text = compose(fields, SPEC)
    except TextRefused:
        return
    assert text
    assert all(c == "\n" or c.isprintable() or c == " " for c in text)


def test_tokenizer_short_text_is_padded_and_masked(tokenizer_file: Path) -> None:
    """Ids are int32 of the spec's width; the mask says which are real."""
    ids, mask = Tokenizer.from_file(tokenizer_file, SPEC).encode(["color: red\ntitle: mug"])
    assert ids.dtype == mask.dtype == np.int32
    assert ids.tolist() == [[2, 3, 4, 5, 0, 0, 0, 0]]
    assert mask.tolist() == [[1, 1, 1, 1, 0, 0, 0, 0]]


def test_tokenizer_long_text_is_truncated(tokenizer_file: Path) -> None:
    """What does not fit is cut at the end."""
    ids, mask = Tokenizer.from_file(tokenizer_file, SPEC).encode(["red " * 20, "mug"])
    assert ids.shape == (2, 8)
    assert mask.sum(axis=1).tolist() == [8, 1]


def test_tokenizer_no_texts_gives_empty_arrays(tokenizer_file: Path) -> None:
    """Nothing in, nothing out, in the right shape."""
    ids, _ = Tokenizer.from_file(tokenizer_file, SPEC).encode([])
    assert ids.shape == (0, 8)


@pytest.mark.parametrize("content", ["", "{}", "not json"])
def test_tokenizer_bad_file_is_invalid(tmp_path: Path, content: str) -> None:
    """A file that is no tokenizer says so."""
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(ManifestInvalid):
        Tokenizer.from_file(path, SPEC)


def test_tokenizer_without_padding_token_is_invalid(tmp_path: Path) -> None:
    """Batches need a padding token."""
    path = tmp_path / "tokenizer.json"
    tokenizers.Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).save(str(path))
    with pytest.raises(ManifestInvalid, match="PAD"):
        Tokenizer.from_file(path, SPEC)


def test_spans_say_where_each_token_stands(tokenizer_file: Path) -> None:
    """The text between them is the token; padding stands nowhere."""
    text = "color: red\ntitle: mug"
    spans = Tokenizer.from_file(tokenizer_file, SPEC).spans(text)
    assert spans.dtype == np.int32
    assert spans.shape == (8, 2)
    assert [text[start:end] for start, end in spans] == ["color:", "red", "title:", "mug", "", "", "", ""]
