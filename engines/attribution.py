"""Which claim of a text a picture contradicts: by leaving each out and scoring again. Where it does: `engines.heat`.

    text ──► claims ──► attention masks, one without each claim ──► engine ──► the claim whose absence calms the engine

A claim is a field's value together with every other mention of it: leaving the colour out of `color` alone changes
nothing while the title still says it. Works with any engine, since all read `attention_mask`. No I/O; the caller runs
the engine.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

MAX_CLAIMS: Final = 24
"""Claims of one text at most, each an inference: with the base they still fit one batch of 32."""

_PROSE: Final = ("title", "description")
"""Fields that say many things; every other field is one claim."""

_OTHERS_ROOM: Final = 10  # claims; a catalogue with dozens of attributes leaves room for words of the title
_MOST_NAMED: Final = 3
_LEAST_SHARE: Final = 0.1  # below it a claim is named only if it is the first

_WORD: Final = re.compile(r"\w+(?:[-'\u2019]\w+)*")
_SENTENCE_END: Final = re.compile(r"(?<=[.!?;])\s+")
_QUANTITY: Final = re.compile(
    r"\b(?:(?:set|pack|box|bundle|lot)\s+of\s+(?:\d+|two|three|four|five|six|eight|ten|twelve)"
    r"|\d+[-\s]?(?:pack|piece|pc|count|ct|set|pair)s?|pairs?|single\s+piece|sold\s+singly)\b",
    re.IGNORECASE,
)
_FUNCTION_WORDS: Final = frozenset(
    {"a", "an", "and", "at", "by", "for", "from", "in", "of", "on", "or", "the", "to", "with"}
)
_PLURALS: Final = (("ies", "y"), ("sses", "ss"), ("shes", "sh"), ("ches", "ch"), ("xes", "x"), ("ss", "ss"), ("s", ""))

Span = tuple[int, int]
"""First character, and the one after the last."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Something that a text says: the field where it stands, its words there, and all its mentions in the text."""

    field: str
    value: str
    spans: tuple[Span, ...]


class LeftOut(NamedTuple):
    """Claims, for each the `attention_mask` without it, int32 (C, T), and how many of them are facts.

    Facts stand first: fields that state one thing, and quantities. Where leaving out one of them calms the engine, the
    words and sentences behind them need not be tried.
    """

    claims: tuple[Claim, ...]
    attention_mask: NDArray[np.int32]
    facts: int


class Named(NamedTuple):
    """A contradicted claim, and its share of the whole fall of the logit, 0..1."""

    claim: Claim
    share: float


class _Word(NamedTuple):
    field: str
    text: str
    span: Span

    @property
    def stem(self) -> str:
        return _stem(self.text)


def claims(text: str) -> tuple[list[Claim], list[Claim]]:
    """Return what a text of `engines.text.compose` claims: facts, and the words that say what no fact does.

    Facts are fields that state one thing, and quantities (`set of 4`); then come the other words of the title and the
    other sentences of the description.
    """
    lines = list(_lines(text))
    words = [
        _Word(name, m.group(), (at + m.start(), at + m.end()))
        for name, value, at in lines
        if name in _PROSE
        for m in _WORD.finditer(value)
        if m.group().lower() not in _FUNCTION_WORDS
    ]
    stated = [_stated(name, value, at, words) for name, value, at in lines if name not in _PROSE]
    facts = [*_quantities(lines), *stated]
    free = _outside(words, _spans(facts))
    titled = _title_words(free)
    return facts, [*titled, *_sentences(lines, _outside(free, _spans(titled)))]


def leave_out(text: str, token_spans: NDArray[np.int32], attention_mask: NDArray[np.int32]) -> LeftOut:
    """Return the claims of a text that the engine reads, at most `MAX_CLAIMS`, and the masks without each.

    Masked tokens keep the places of all others, and nothing that was cut off the end comes into view.

    Args:
        text: as `engines.text.compose` made it.
        token_spans: int32 (T, 2), see `engines.text.Tokenizer.spans`.
        attention_mask: int32 (T,), the mask of the whole text.
    """
    facts, others = (_read(made, token_spans, attention_mask) for made in claims(text))
    facts = facts[: MAX_CLAIMS - min(len(others), _OTHERS_ROOM)]
    read = [*facts, *others][:MAX_CLAIMS]
    masks = np.array([np.where(tokens, 0, attention_mask) for _, tokens in read], dtype=np.int32)
    return LeftOut(
        claims=tuple(claim for claim, _ in read),
        attention_mask=masks.reshape(len(read), len(attention_mask)),
        facts=len(facts),
    )


def rank(claims: Sequence[Claim], logit: float, logits: Sequence[float]) -> list[Named]:
    """Return the contradicted claims, the worst first: those without which the mismatch logit falls most.

    Args:
        claims: C of them.
        logit: of the whole text.
        logits: C, of the text without each claim.
    """
    falls = [max(0.0, logit - without) for without in logits]
    total = sum(falls)
    if total <= 0.0:
        return []
    named = sorted(
        (Named(claim, fall / total) for claim, fall in zip(claims, falls, strict=True)), key=lambda n: -n.share
    )
    return [n for place, n in enumerate(named[:_MOST_NAMED]) if n.share >= _LEAST_SHARE or place == 0]


# -- claims


def _lines(text: str) -> Iterator[tuple[str, str, int]]:
    """Yield each field's name, its value, and where the value begins in the text."""
    at = 0
    for line in text.split("\n"):
        name, _, value = line.partition(": ")
        yield name, value, at + len(line) - len(value)
        at += len(line) + 1


def _stated(name: str, value: str, at: int, words: Iterable[_Word]) -> Claim:
    stems = {_stem(word) for word in _WORD.findall(value)}
    return Claim(name, value, ((at, at + len(value)), *(word.span for word in words if word.stem in stems)))


def _quantities(lines: Iterable[tuple[str, str, int]]) -> list[Claim]:
    """Return the one claim of how many there are, wherever the prose says so; none where it does not."""
    found = [
        (name, m.group(), (at + m.start(), at + m.end()))
        for name, value, at in lines
        if name in _PROSE
        for m in _QUANTITY.finditer(value)
    ]
    return [Claim(found[0][0], found[0][1], tuple(span for *_, span in found))] if found else []


def _title_words(free: Sequence[_Word]) -> list[Claim]:
    first = {word.stem: word for word in reversed(free) if word.field == "title"}
    return [
        Claim("title", word.text, tuple(other.span for other in free if other.stem == stem))
        for stem, word in reversed(first.items())
    ]


def _sentences(lines: Iterable[tuple[str, str, int]], free: Sequence[_Word]) -> list[Claim]:
    made: list[Claim] = []
    for name, value, at in lines:
        if name != "description":
            continue
        ends = [m.start() for m in _SENTENCE_END.finditer(value)]
        for start, end in zip([0, *ends], [*ends, len(value)], strict=True):
            spans = tuple(word.span for word in free if _within(word.span, (at + start, at + end)))
            if spans:
                made.append(Claim(name, value[start:end].strip(), spans))
    return made


def _spans(made: Iterable[Claim]) -> list[Span]:
    return [span for claim in made for span in claim.spans]


def _outside(words: Iterable[_Word], spans: Sequence[Span]) -> list[_Word]:
    return [word for word in words if not any(_within(word.span, span) for span in spans)]


def _within(inner: Span, outer: Span) -> bool:
    return outer[0] <= inner[0] and inner[1] <= outer[1]


def _stem(word: str) -> str:
    """Return the word in lower case and, as far as its English ending tells, in the singular."""
    low = word.lower()
    for ending, singular in _PLURALS:
        if low.endswith(ending) and len(low) >= len(ending) + 2:
            return low.removesuffix(ending) + singular
    return low


def _read(
    made: Iterable[Claim], token_spans: NDArray[np.int32], attention_mask: NDArray[np.int32]
) -> list[tuple[Claim, NDArray[np.bool_]]]:
    """Return the claims that the engine reads, each with its tokens, bool (T,)."""
    found = [(claim, _tokens_of(claim, token_spans) & (attention_mask > 0)) for claim in made]
    return [(claim, tokens) for claim, tokens in found if tokens.any()]


def _tokens_of(claim: Claim, token_spans: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Return bool (T,): the tokens that hold a character of the claim."""
    starts, ends = token_spans[:, 0, None], token_spans[:, 1, None]  # (T, 1)
    first, last = np.array(claim.spans, dtype=np.int32).T  # (S,)
    overlaps = (starts < last) & (first < ends) & (starts < ends)
    return np.asarray(overlaps.any(axis=1), dtype=np.bool_)
