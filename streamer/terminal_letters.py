"""What `streamer dead-letters` prints. What strangers wrote reaches a terminal escaped only."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from streamer.dead_letters import original
from streamer.terminal import printable

if TYPE_CHECKING:
    from streamer.dead_letters import Letter, Replayed

_SHOWN_CHARS: Final = 4000  # of an event's text
_MESSAGE_CHARS: Final = 80


def _shown(text: str | None, limit: int = 256) -> str:
    return escape(printable((text or "")[:limit]))


class Counted:
    """The first letters of a list, and how many there are of each reason."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._first: list[Letter] = []
        self._reasons: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """How many letters there are."""
        return self._reasons.total()

    def add(self, letter: Letter) -> None:
        """Take note of a letter."""
        self._reasons[letter.content.reason] += 1
        if len(self._first) < self._limit:
            self._first.append(letter)

    def table(self) -> Table:
        """Return the first letters."""
        more = self.total - len(self._first)
        caption = f"and {more:,} more: --limit {self.total}" if more else None
        table = Table("place", "rejected", "reason", "tries", "product", "host", "message", box=SIMPLE, caption=caption)
        for letter in self._first:
            content = letter.content
            table.add_row(
                str(letter.place),
                f"{content.rejected_at:%Y-%m-%d %H:%M:%S}Z",
                _shown(content.reason),
                str(content.attempts),
                _shown(content.product_id),
                _shown(letter.host),
                _shown(content.message, _MESSAGE_CHARS),
            )
        return table

    def reasons_table(self) -> Table:
        """Return how many there are of each reason."""
        table = Table("reason", "letters", box=SIMPLE)
        for reason, count in self._reasons.most_common():
            table.add_row(_shown(reason), f"{count:,}")
        table.add_row("[bold]all[/]", f"{self.total:,}")
        return table


def summary(letter: Letter) -> dict[str, Any]:
    """Return a letter without its event's bytes, as JSON has it."""
    content = letter.content
    return {
        "place": str(letter.place),
        "rejected_at": content.rejected_at.isoformat(),
        "reason": content.reason,
        "message": content.message,
        "attempts": content.attempts,
        "product_id": content.product_id,
        "host": letter.host,
        "image_url": content.image_url,
        "release": content.release,
        "source": _position(letter),
        "replayed_from": f"{letter.origin.topic}/{letter.origin.partition}:{letter.origin.offset}"
        if content.origin
        else None,
        "value_omitted": content.value_omitted,
    }


def _position(letter: Letter) -> str:
    source = letter.content.source
    return f"{source.topic}/{source.partition}:{source.offset}"


def details(letter: Letter) -> Table:
    """Return all that is known of one letter."""
    content = letter.content
    table = Table("", "", box=SIMPLE, show_header=False)
    for name, value in summary(letter).items():
        table.add_row(name, _shown(None if value is None else str(value), _SHOWN_CHARS))
    table.add_row("published_at", content.published_at.isoformat())
    table.add_row("key (base64)", _shown(content.key))
    for name, header in content.headers:
        table.add_row(f"header {_shown(name)} (base64)", _shown(header))
    body = original(content)
    if body is not None:
        more = f" … {len(body):,} bytes in all: --value" if len(body) > _SHOWN_CHARS else ""
        table.add_row("value", _shown(body[:_SHOWN_CHARS].decode("utf-8", "backslashreplace"), _SHOWN_CHARS) + more)
    return table


def replayed(done: Replayed, *, dry_run: bool) -> dict[str, Any]:
    """Return how a replay ended, as JSON has it."""
    return {
        "dry_run": dry_run,
        "chosen": done.chosen,
        "sent": 0 if dry_run else done.sent,
        "replayable": done.sent,
        "older_letters_of_the_same_event": done.repeated,
        "kept": dict(done.kept),
    }


def replayed_words(done: Replayed, *, dry_run: bool) -> str:
    """Return how a replay ended, in words."""
    published = "would be published" if dry_run else "published"
    lines = [f"{done.chosen:,} letters chosen; {done.sent:,} updates {published} again"]
    if done.repeated:
        lines.append(f"  {done.repeated:,} letters are of events that have a later letter, which counts")
    lines += [f"  [yellow]{count:,} cannot be replayed[/]: {reason}" for reason, count in done.kept.most_common()]
    return "\n".join(lines)
