"""A catalogue's texts → a small tokenizer of its own words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, trainers

from engines.text import PAD_TOKEN

if TYPE_CHECKING:
    from collections.abc import Iterable

UNKNOWN_TOKEN: Final = "[UNK]"  # noqa: S105 - a token of text

# A field's name with its colon is one token: `color:` costs as little as it says. Then words, then single signs.
_PIECES: Final = r"\w+:|\w+|[^\w\s]"


def train_tokenizer(texts: Iterable[str], *, size: int, min_frequency: int = 2) -> tokenizers.Tokenizer:
    """Return a lower-case WordPiece tokenizer of at most `size` tokens; id 0 is padding.

    Source: Schuster, Nakajima 2012 (WordPiece), as the `tokenizers` library trains it.
    """
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token=UNKNOWN_TOKEN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(_PIECES), behavior="removed", invert=True)
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        min_frequency=min_frequency,
        special_tokens=[PAD_TOKEN, UNKNOWN_TOKEN],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
