"""A catalogue's texts → a small tokenizer of its own words.

The library's own trainers break ties differently in every process, so the same catalogue would not give the same ids
twice, and weights would belong to one run's tokenizer alone: the vocabulary is counted here.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from engines.text import PAD_TOKEN

if TYPE_CHECKING:
    from collections.abc import Iterable

UNKNOWN_TOKEN: Final = "[UNK]"  # noqa: S105 - a token of text

# A field's name with its colon is one token: `color:` costs as little as it says. Then words, then single signs.
_PIECES: Final = r"\w+:|\w+|[^\w\s]"
_CONTINUED: Final = "##"


def train_tokenizer(texts: Iterable[str], *, size: int, min_frequency: int = 2) -> tokenizers.Tokenizer:
    """Return a lower-case tokenizer of at most `size` tokens; id 0 is padding.

    Its tokens are every character that occurs, alone and inside a word, then the most frequent words; a word that is
    not among them is spelt by the longest tokens that fit (WordPiece). The same texts give the same ids.

    Source: Schuster, Nakajima 2012, for the way a word is spelt.
    """
    normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    splitter = pre_tokenizers.Split(tokenizers.Regex(_PIECES), behavior="removed", invert=True)
    counts = Counter(piece for text in texts for piece, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    tokens = _tokens(counts, size, min_frequency)
    tokenizer = tokenizers.Tokenizer(models.WordPiece({t: i for i, t in enumerate(tokens)}, unk_token=UNKNOWN_TOKEN))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    return tokenizer


def new_words(tokenizer: tokenizers.Tokenizer, texts: Iterable[str], *, least: int) -> list[str]:
    """Return the words that at least so many texts have and that the tokenizer has to spell, the most frequent first.

    The same texts give the same words; those as frequent as each other stand in alphabetical order.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        normal = text if tokenizer.normalizer is None else tokenizer.normalizer.normalize_str(text)
        counts.update({piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal)})
    known = tokenizer.get_vocab()
    found = [word for word, count in counts.items() if count >= least and word not in known]
    return sorted(found, key=lambda word: (-counts[word], word))


def _tokens(counts: Counter[str], size: int, min_frequency: int) -> list[str]:
    """Return the tokens in the order of their ids; words as frequent as each other stand in alphabetical order."""
    characters = sorted({character for piece in counts for character in piece})
    spelling = [*characters, *(_CONTINUED + character for character in characters)]
    words = sorted((word for word in counts if counts[word] >= min_frequency), key=lambda word: (-counts[word], word))
    return list(dict.fromkeys([PAD_TOKEN, UNKNOWN_TOKEN, *spelling, *words]))[:size]
