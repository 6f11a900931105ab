"""Any feed → a folder catalogue on disk: `catalog.jsonl`, `images/`, and why the rest was refused.

    shop.csv ──► rows ──► pictures, local or fetched ──► DIR/catalog.jsonl    what `engines.catalogs` reads
                   └────────────┴─ a reason code ──────► DIR/refused.jsonl

The text is read as a scorer reads it (`feed_rows.product_update`) and the pictures come as a scorer gets them
(`fetch.Fetcher`), so an engine is trained on what it will see. Rows are written in the order of the feed; those between
the one that is read and the one that is written are bounded, and so are the pictures held in memory. A run walks the
whole feed, and brings the pictures that earlier runs did not. Of several rows of one product the last counts, as with a
scorer: ids are read first, which takes a second walk.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlsplit

from engines.catalogs import erased
from engines.catalogs.collection import REFUSED_FILE
from engines.catalogs.folder import CATALOG_FILE
from engines.contract import TextSpec
from engines.errors import TextRefused
from engines.text import OTHER_FIELDS, compose
from streamer.catalogs import ID_DUPLICATE, PRODUCT_ERASED, CatalogWriter, Collected, RowOutcome, catalog_line, refusal
from streamer.columns import Columns
from streamer.erasures import Erasures
from streamer.errors import FatalError, RejectedEvent, TransientError
from streamer.feed_rows import identifier, product_update
from streamer.feeds import Feed, Row, file_time, open_feed
from streamer.fetch import Fetched, Fetcher
from streamer.links import Links, identity
from streamer.pictures import INDEX_FILE, PictureStore
from streamer.purge import purge
from streamer.terminal import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from engines.catalogs.collection import Refusal
    from streamer.settings import Settings
    from streamer.updates import ProductUpdate

WINDOW: Final = 1024
"""Rows between the one that is read and the one that is written: enough that a host that answers in ten seconds does
not hold up the others, and a few MB."""

HOPELESS_ROWS: Final = 100  # when the first hundred rows are all wrong, the file or an option is
MANY_REFUSED: Final = 0.5  # of the rows

_ANY_TEXT = TextSpec(max_tokens=64, fields=(OTHER_FIELDS,))


@dataclass(frozen=True, kw_only=True)
class CollectOptions:
    """What to collect, and where to.

    `feed` is a file, or a folder that holds `catalog.jsonl`. Relative links are relative to `base_url`, or to the
    folder `pictures`, or to the feed's own folder; pictures on this machine must lie in that folder. `columns` says
    what the feed calls our fields.
    """

    feed: Path
    out: Path
    base_url: str | None = None
    pictures: Path | None = None
    limit: int | None = None
    columns: Columns = field(default_factory=Columns)
    retry_refused: bool = False

    @property
    def file(self) -> Path:
        """The feed's file."""
        return self.feed / CATALOG_FILE if self.feed.is_dir() else self.feed


class Watch(Protocol):
    """Who looks on: a progress bar, or nobody."""

    def collected(self, feed: Feed, done: Collected, *, finished: bool = False) -> None:
        """A row was written, or the feed has ended."""
        ...


async def collect(options: CollectOptions, settings: Settings, watch: Watch) -> Collected:
    """Collect the feed into `options.out`, going on where an earlier run was cut; erased products are left out.

    Raises:
        FatalError: feed_unreadable, feed_unsupported, feed_unusable, settings_invalid, out_unusable, out_occupied.
        TransientError: store_unavailable, where the list of erased products is.
    """
    _check(options)
    gone = await asyncio.to_thread(Erasures(settings.labels.dataset).all)
    with ExitStack() as stack:
        feed = stack.enter_context(open_feed(options.file, options.columns))
        store = stack.enter_context(
            PictureStore(
                options.out,
                max_pixels=settings.pipeline.max_pixels,
                max_bytes=settings.fetch.max_image_bytes,
                threads=os.cpu_count() or 1,
            )
        )
        if options.retry_refused:
            store.forget_refusals()
        with open_feed(options.file, options.columns) as ahead:
            store.note_rows(_ids(ahead, options.limit))
        catalog = stack.enter_context(CatalogWriter(options.out))
        async with Fetcher(settings.fetch) as fetcher:
            collector = Collector(options, store, fetcher, places=settings.fetch.concurrency, gone=gone)
            await collector.run(feed, catalog, watch)
        catalog.finish(options.feed, collector.done)
    if gone:  # what earlier runs have brought of them
        await asyncio.to_thread(purge, options.out, gone)
    return collector.done


def _check(options: CollectOptions) -> None:
    out = options.out
    if (out / CATALOG_FILE).exists() and not (out / INDEX_FILE).exists():
        raise FatalError("out_occupied", f"{out} holds a catalogue that was not collected; give --out another folder")
    if options.base_url is not None and urlsplit(options.base_url).scheme not in ("http", "https"):
        raise FatalError("settings_invalid", f"--base-url {options.base_url}: write http(s)://HOST/FOLDER/")
    if options.base_url is not None and options.pictures is not None:
        raise FatalError("settings_invalid", "relative links have one base: give --base-url or --pictures, not both")


def _ids(feed: Feed, limit: int | None) -> Iterator[tuple[str, int]]:
    """Yield id and number of each row, ids as `product_update` reads them."""
    for row in feed.rows if limit is None else itertools.islice(feed.rows, limit):
        if isinstance(row.fields, dict) and "id" in row.fields:
            try:
                product_id = identifier(row.fields["id"])
            except RejectedEvent:
                continue
            yield product_id, row.number


class Collector:
    """Rows in, outcomes out, many at a time.

    Args:
        options: what to collect.
        store: where pictures go.
        fetcher: brings them.
        places: pictures in memory at once.
        gone: digests of erased products.
    """

    def __init__(
        self,
        options: CollectOptions,
        store: PictureStore,
        fetcher: Fetcher,
        *,
        places: int,
        gone: frozenset[str] = erased.NOTHING,
    ) -> None:
        self.done = Collected()
        self._options, self._store, self._fetcher = options, store, fetcher
        self._links = Links(options.pictures or options.file.parent)
        self._base = options.base_url or self._links.base_url
        self._places = asyncio.Semaphore(places)
        self._gone = gone
        self._arriving: dict[str, asyncio.Task[str]] = {}
        self._examples: dict[str, Refusal] = {}

    async def run(self, feed: Feed, catalog: CatalogWriter, watch: Watch) -> None:
        """Take every row of the feed to the catalogue, in order.

        Raises:
            FatalError: feed_unreadable, feed_unusable, out_unusable.
        """
        pending: deque[asyncio.Task[RowOutcome]] = deque()
        feed_time = file_time(self._options.file.stat().st_mtime_ns)
        try:
            for row in feed.rows:
                if self._options.limit is not None and row.number > self._options.limit:
                    break
                if len(pending) == WINDOW:
                    self._write(await pending.popleft(), catalog, feed)
                    watch.collected(feed, self.done)
                pending.append(asyncio.create_task(self._outcome(row, self._read(row, feed_time))))
            while pending:
                self._write(await pending.popleft(), catalog, feed)
                watch.collected(feed, self.done)
        finally:
            await _cancel([*pending, *self._arriving.values()])
        if not self.done.products:
            raise self._unusable(feed, catalog)
        if self.done.refused_for_good > MANY_REFUSED * self.done.rows_that_count:
            self.done.advice = self._advice(feed)
        watch.collected(feed, self.done, finished=True)

    def _read(self, row: Row, feed_time: datetime) -> ProductUpdate | RejectedEvent:
        """Return the row as the scorer reads it; a time or version of it plays no part here."""
        try:
            update = product_update(row, base_url=self._base, feed_time=feed_time, ordered=False)
        except RejectedEvent as error:
            return error
        return self._objection(row, update) or update

    def _objection(self, row: Row, update: ProductUpdate) -> RejectedEvent | None:
        if self._gone and erased.digest(update.id) in self._gone:
            return RejectedEvent(PRODUCT_ERASED, "a product that was erased: `streamer labels restore` ends that")
        last = self._store.last_row(update.id)
        if last is not None and last > row.number:
            return RejectedEvent(ID_DUPLICATE, f"row {last} has the same id, and the last one counts")
        if update.deleted:
            return RejectedEvent("product_deleted", "the row says that the product is gone")
        if update.image_link is None:
            return RejectedEvent("image_missing", "the row has no `image_link`")
        try:
            compose(update.text_fields(), _ANY_TEXT)
        except TextRefused as error:
            return RejectedEvent(error.code, str(error))
        return None

    async def _outcome(self, row: Row, read: ProductUpdate | RejectedEvent) -> RowOutcome:
        if isinstance(read, RejectedEvent):
            return RowOutcome(None, [refusal(row, read)])
        link = read.image_link or ""
        try:
            first = await self._picture(link)
        except (RejectedEvent, TransientError) as error:
            return RowOutcome(None, [refusal(row, error, self._links.shown(link))])
        return await self._with_additional(row, read, first)

    async def _with_additional(self, row: Row, update: ProductUpdate, first: str) -> RowOutcome:
        """Bring the further pictures; one that is refused is left out, and the product stays."""
        links = list(dict.fromkeys(update.additional_image_link))
        brought = await asyncio.gather(*map(self._picture, links), return_exceptions=True)
        files = {first: None}
        refusals: list[Refusal] = []
        for link, result in zip(links, brought, strict=True):
            match result:
                case str():
                    files[result] = None
                case RejectedEvent() | TransientError():
                    refusals.append(refusal(row, result, self._links.shown(link), product_kept=True))
                case BaseException():
                    raise result
        return RowOutcome(catalog_line(update, list(files)), refusals)

    async def _picture(self, link: str) -> str:
        """Return the picture's file; many products may wait for one that is on its way."""
        link = self._links.absolute(link)
        path = self._links.file(link)
        source = link if path is None else identity(path)
        known = self._store.known(source)
        if known is not None:
            return known
        task = self._arriving.get(source)
        if task is None:
            task = self._arriving[source] = asyncio.create_task(self._bring(source, path))
            task.add_done_callback(lambda _: self._arriving.pop(source))
        return await task

    async def _bring(self, source: str, path: Path | None) -> str:
        async with self._places:
            try:
                if path is not None:
                    file = await self._store.add_file(source, path)
                else:
                    fetched = await self._fetcher.get(source)
                    assert isinstance(fetched, Fetched), "no validator was given"
                    try:
                        file = await self._store.add(source, fetched.body)
                    finally:
                        fetched.release()
            except RejectedEvent as error:  # what may pass is not remembered: the next run asks again
                self._store.refuse(source, error)
                raise
        self.done.brought += 1
        return file

    def _write(self, outcome: RowOutcome, catalog: CatalogWriter, feed: Feed) -> None:
        done = self.done
        done.rows += 1
        catalog.write(outcome)
        done.reasons.update(refusal.reason for refusal in outcome.refusals)
        for one in outcome.refusals:
            self._examples.setdefault(one.reason, one)
        if outcome.product is None:
            done.refused += 1
        else:
            done.products += 1
            done.links += 1 + len(outcome.product.get("additional_image_link", ()))
            done.pictures_left_out += len(outcome.refusals)
        if done.refused_for_good == done.rows_that_count == HOPELESS_ROWS:
            raise self._unusable(feed, catalog)

    def _unusable(self, feed: Feed, catalog: CatalogWriter) -> FatalError:
        catalog.leave_refusals()
        return FatalError(
            "feed_unusable",
            f"{self._options.feed}: none of the first {self.done.rows:,} rows can be used: {self._advice(feed)} Every "
            f"row's reason stands in {self._options.out / REFUSED_FILE}.",
        )

    def _advice(self, feed: Feed) -> str:
        """Return why rows were refused, what was said of one of them, and how the feed's columns are read."""
        common = self.done.reasons.most_common(5)
        reasons = ", ".join(f"{code} ({count:,})" for code, count in common)
        examples = [self._examples[code] for code, _ in common[:1]]
        said = "".join(
            f" Line {one.line:,}: {one.message.rstrip('.')}{f' ({one.link})' if one.link else ''}." for one in examples
        )
        return printable(f"{reasons}.{said} {feed.advice()}".rstrip())


async def _cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
