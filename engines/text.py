"""A product's fields → `input_ids`: the ONE definition, used in training and in scoring.

`compose` makes one text of the fields, `Tokenizer` makes ids of texts. Both bound their work by the spec, whatever
length the fields have. No threads are started: callers bring their own. A release is read as its `TextSpec.version` was
trained: what that says is never changed, it gets a successor.
"""

from __future__ import annotations

import os
import re
import unicodedata
from typing import TYPE_CHECKING, Final

import numpy as np

# The library would start a pool of threads, one per core, beside those of the caller and of the engine.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
import tokenizers

from engines.errors import ManifestInvalid, TextRefused
from engines.markup import plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from engines.contract import TextSpec

OTHER_FIELDS: Final = "*"
"""In `TextSpec.fields`: every field that the spec does not name, in the order of the product."""

PAD_TOKEN: Final = "[PAD]"  # noqa: S105 - a token of text
"""What pads, unless the `padding` of the tokenizer.json names another."""

_WORD: Final = re.compile(r"\w")
_MAX_NAME_CHARS: Final = 40
_MAX_FIELD_CHARS: Final = 512
_MAX_MARKUP_CHARS: Final = 8192  # of a field that may hold tags: most of a page is none of its text
_PLAIN: Final = 2  # the version from which on tags and entities are not read
_CHARS_PER_TOKEN: Final = 16  # above any tokenizer's average, so what is cut here would have been truncated anyway


def compose(fields: Mapping[str, str], spec: TextSpec) -> str:
    r"""Return the product's text: a line `name: value` for each field that `spec` asks for, in its order.

    Values are NFKC without control characters, each run of white space one space, so a line break always begins a
    field; from version 2 of the spec on they are what a browser shows of them, without tags and entities. Truncation
    cuts the end: a spec names short decisive fields first and the description last.

    Raises:
        TextRefused: no field holds a letter or a digit.
    """
    lines = [f"{name}: {value}" for name, value in _chosen(fields, spec) if value]
    if not lines:
        raise TextRefused("no field that the engine reads holds a letter or a digit: fill title, color, …")
    return "\n".join(lines)[: spec.max_tokens * _CHARS_PER_TOKEN]


class Tokenizer:
    """Texts → `input_ids` and `attention_mask`, both int32 (B, T), T = `spec.max_tokens`."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, spec: TextSpec) -> None:
        pad_token = tokenizer.padding["pad_token"] if tokenizer.padding else PAD_TOKEN
        pad_id = tokenizer.token_to_id(pad_token)
        if pad_id is None:
            raise ManifestInvalid(f"tokenizer.json has no {pad_token} token")
        tokenizer.enable_truncation(max_length=spec.max_tokens)
        tokenizer.enable_padding(length=spec.max_tokens, pad_id=pad_id, pad_token=pad_token)
        self._tokenizer = tokenizer
        self.spec = spec

    @classmethod
    def from_file(cls, path: Path, spec: TextSpec) -> Tokenizer:
        """Return the tokenizer that stands in a `tokenizer.json`.

        Raises:
            ManifestInvalid: the file cannot be read as one.
        """
        try:
            return cls(tokenizers.Tokenizer.from_file(str(path)), spec)
        except ManifestInvalid:
            raise
        except Exception as error:  # the library raises bare Exception
            raise ManifestInvalid(f"{path} is not a tokenizer.json: {error}") from error

    @property
    def vocabulary_size(self) -> int:
        """How many ids there are."""
        return int(self._tokenizer.get_vocab_size())

    @property
    def unknown_id(self) -> int | None:
        """The id that stands for words which are not in the vocabulary; None: every word is made of what is in it."""
        model = self._tokenizer.model
        token = getattr(model, "unk_token", None)
        return getattr(model, "unk_id", None) if token is None else self._tokenizer.token_to_id(token)

    def encode(self, texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return `input_ids` and `attention_mask` (1 on real tokens), both int32 (B, T)."""
        encodings = self._tokenizer.encode_batch_fast(list(texts))
        shape = (len(encodings), self.spec.max_tokens)
        ids = np.array([encoding.ids for encoding in encodings], dtype=np.int32).reshape(shape)
        mask = np.array([encoding.attention_mask for encoding in encodings], dtype=np.int32).reshape(shape)
        return ids, mask

    def spans(self, text: str) -> NDArray[np.int32]:
        """Return where in the text each token stands, int32 (T, 2): first character, and the one after the last.

        Both are 0 for padding and for tokens that the text does not hold.
        """
        return np.array(self._tokenizer.encode(text).offsets, dtype=np.int32).reshape(self.spec.max_tokens, 2)


def _chosen(fields: Mapping[str, str], spec: TextSpec) -> Iterator[tuple[str, str]]:
    """Yield the cleaned name and value of each field, in the spec's order."""
    for wanted in spec.fields:
        names = [name for name in fields if name not in spec.fields] if wanted == OTHER_FIELDS else [wanted]
        for name in names:
            value = fields.get(name, "")
            shown = value if spec.version < _PLAIN else plain(value[:_MAX_MARKUP_CHARS])
            yield _clean(name, _MAX_NAME_CHARS), _clean(shown, _MAX_FIELD_CHARS)


def _clean(value: str, limit: int) -> str:
    """Return at most `limit` characters of NFKC text, or nothing where there is neither letter nor digit."""
    normal = unicodedata.normalize("NFKC", value[:limit])  # cut first: one character may become eighteen
    spaced = normal if normal.isprintable() else "".join(_printable(normal))
    tidy = " ".join(spaced.split())[:limit]
    return tidy if _WORD.search(tidy) else ""


def _printable(text: str) -> Iterator[str]:
    for character in text:
        if character.isspace():
            yield " "
        elif unicodedata.category(character)[0] != "C":
            yield character
