"""Collecting: any feed becomes a folder that training can read, and nothing is brought twice."""

from __future__ import annotations

import asyncio
import csv
import io
import os
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import orjson
import pyarrow as pa
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from PIL import Image
from pyarrow import parquet

from engines.catalogs.collection import COLLECTION_FILE, read_collection, read_refusals
from engines.catalogs.folder import CATALOG_FILE, read_folder
from engines.errors import CatalogInvalid
from streamer.catalogs import CatalogWriter, Collected
from streamer.collect import WINDOW, CollectOptions, Collector, collect
from streamer.erasures import Erasures
from streamer.errors import FatalError
from streamer.feeds import Feed, Row
from streamer.fetch import Fetcher
from streamer.pictures import PictureStore
from streamer.settings import FetchSettings, LabelSettings, Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator
    from pathlib import Path


def jpeg(shade: int) -> bytes:
    """Return a small picture of one shade."""
    buffer = io.BytesIO()
    Image.new("RGB", (20, 10), (shade, 0, 0)).save(buffer, "JPEG")
    return buffer.getvalue()


class PictureHost:
    """Serves /<shade>.jpg; `gone` are 404, `down` 503, `held` wait for `release`; everything asked for is counted."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.gone: set[str] = set()
        self.down: set[str] = set()
        self.held: set[str] = set()
        self.holding, self.release = asyncio.Event(), asyncio.Event()
        app = web.Application()
        app.router.add_get("/{name}", self._answer)
        self.server = TestServer(app, host="127.0.0.1")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    async def _answer(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        self.requests[name] += 1
        if name in self.held:
            self.holding.set()
            await self.release.wait()
        if name in self.gone or name in self.down:
            return web.Response(status=404 if name in self.gone else 503)
        return web.Response(body=jpeg(int(name.split(".")[0]) % 256))


@pytest.fixture
async def host() -> AsyncIterator[PictureHost]:
    """A host of pictures."""
    running = PictureHost()
    await running.server.start_server()
    try:
        yield running
    finally:
        running.release.set()
        await running.server.close()


class Onlooker:
    """Looks on, and says when so many rows have been written."""

    def __init__(self, enough: int = 0) -> None:
        self.rows, self.enough, self.reached = 0, enough, asyncio.Event()

    def collected(self, feed: Feed, done: Collected, *, finished: bool = False) -> None:
        self.rows = done.rows
        if self.rows == self.enough:
            self.reached.set()


def settings(*hosts: PictureHost, **changes: Any) -> Settings:  # noqa: ANN401 - fields as pydantic takes them
    """Return settings that allow the hosts, try once and wait for nothing."""
    allowed = tuple(host.url.removeprefix("http://") for host in hosts)
    return Settings(fetch=FetchSettings(allow_hosts=allowed, attempts=1, backoff_s=0, **changes))


def product(number: int, link: str, **more: object) -> dict[str, Any]:
    """Return a row of a feed."""
    return {"id": str(number), "title": f"Mug {number}", "color": "Red", "image_link": link, **more}


def write_jsonl(path: Path, rows: Iterable[object]) -> Path:
    """Write the rows one a line; a bytes row as it is."""
    path.write_bytes(b"".join((row if isinstance(row, bytes) else orjson.dumps(row)) + b"\n" for row in rows))
    return path


async def collected(feed: Path, out: Path, given: Settings | None = None, **options: Any) -> Collected:  # noqa: ANN401
    """Collect with nobody looking on."""
    return await collect(CollectOptions(feed=feed, out=out, **options), given or settings(), Onlooker())


def shop(folder: Path, *shades: int) -> Path:
    """Write pictures on disk and return the folder."""
    (folder / "photos").mkdir(parents=True)
    for shade in shades:
        (folder / "photos" / f"{shade}.jpg").write_bytes(jpeg(shade))
    return folder


def reasons(out: Path) -> dict[str | None, str]:
    """Return the reason of each refusal by id."""
    return {refusal.id: refusal.reason for refusal in read_refusals(out)}


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
async def test_collect_any_format_gives_the_same_folder(tmp_path: Path, form: str) -> None:
    """Local pictures, beside the feed, whatever the feed's format: the text arrives, and so do the pictures."""
    rows = [product(n, f"photos/{n}.jpg", brand="Ace", season="Summer") for n in (1, 2)]
    feed = shop(tmp_path / "shop", 1, 2) / f"feed.{form}"
    if form == "jsonl":
        write_jsonl(feed, rows)
    elif form == "csv":
        with feed.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        parquet.write_table(pa.Table.from_pylist(rows), feed)
    done = await collected(feed, tmp_path / "out")
    items = read_folder(tmp_path / "out")
    assert (done.rows, done.products, done.brought) == (2, 2, 2)
    assert [item.id for item in items] == ["1", "2"]
    assert items[0].fields == {"title": "Mug 1", "brand": "Ace", "color": "Red", "season": "Summer"}
    assert items[0].image_path.read_bytes() == jpeg(1)


async def test_collect_folder_is_taken_with_its_own_ids_and_columns(tmp_path: Path) -> None:
    """A folder catalogue is a feed too; what is wrong in it is left out, where reading it would have stopped."""
    folder = shop(tmp_path / "shop", 1)
    write_jsonl(folder / CATALOG_FILE, [product(1, "photos/1.jpg", usage="Casual"), product(2, "photos/2.jpg")])
    await collected(folder, tmp_path / "out")
    assert [(item.id, item.fields["usage"]) for item in read_folder(tmp_path / "out")] == [("1", "Casual")]
    assert reasons(tmp_path / "out") == {"2": "image_not_found"}


async def test_collect_remote_pictures_come_through_the_fetcher(tmp_path: Path, host: PictureHost) -> None:
    """Absolute links, and relative ones with a base, are fetched; a private address that is not allowed is refused."""
    feed = write_jsonl(tmp_path / "feed.jsonl", [product(1, f"{host.url}/1.jpg"), product(2, "2.jpg")])
    await collected(feed, tmp_path / "out", settings(host), base_url=host.url)
    assert [item.image_path.read_bytes() for item in read_folder(tmp_path / "out")] == [jpeg(1), jpeg(2)]
    with pytest.raises(FatalError, match="image_address_refused"):
        await collected(feed, tmp_path / "refused", settings(), base_url=host.url)


async def test_collect_identical_pictures_are_stored_and_fetched_once(tmp_path: Path, host: PictureHost) -> None:
    """The same link is asked for once, even while it is on its way, and the same content is one file."""
    links = [f"{host.url}/1.jpg", f"{host.url}/1.jpg", f"{host.url}/257.jpg"]
    feed = write_jsonl(tmp_path / "feed.jsonl", [product(n, link) for n, link in enumerate(links)])
    await collected(feed, tmp_path / "out", settings(host))
    assert host.requests == {"1.jpg": 1, "257.jpg": 1}
    assert len(list((tmp_path / "out/images").iterdir())) == 1
    assert len(read_folder(tmp_path / "out")) == 3


async def test_collect_additional_picture_that_is_refused_leaves_the_product(tmp_path: Path, host: PictureHost) -> None:
    """One of three pictures is missing: the product stays with two, and the third is on record."""
    host.gone = {"3.jpg"}
    more = [f"{host.url}/{name}.jpg" for name in (2, 3, 1)]
    feed = write_jsonl(tmp_path / "feed.jsonl", [product(1, f"{host.url}/1.jpg", additional_image_link=more)])
    done = await collected(feed, tmp_path / "out", settings(host))
    (item,) = read_folder(tmp_path / "out")
    assert [path.read_bytes() for path in item.additional_image_paths] == [jpeg(2)]
    assert (done.products, done.refused, done.pictures_left_out) == (1, 0, 1)
    (refusal,) = read_refusals(tmp_path / "out")
    assert (refusal.reason, refusal.product_kept, refusal.link) == ("image_not_found", True, f"{host.url}/3.jpg")


async def test_collect_each_bad_product_has_its_reason(tmp_path: Path, host: PictureHost) -> None:
    """Whatever is wrong with a row, it spoils itself only, and says which code, which line and which product."""
    folder = shop(tmp_path / "shop", 1)
    (folder / "photos/cut.jpg").write_bytes(jpeg(9)[:200])
    (folder / "photos/page.jpg").write_bytes(b"<html>")
    (tmp_path / "outside.jpg").write_bytes(jpeg(1))
    host.gone, host.down = {"404.jpg"}, {"503.jpg"}
    rows = [
        product(1, "photos/1.jpg"),
        product(1, "photos/1.jpg"),
        product(2, ""),
        {"id": "3", "title": "!!!", "image_link": "photos/1.jpg"},
        product(4, "photos/cut.jpg"),
        product(5, "photos/page.jpg"),
        product(6, "photos/none.jpg"),
        product(7, "../outside.jpg"),
        product(8, "file:///etc/hostname"),
        product(9, f"{host.url}/404.jpg"),
        product(10, f"{host.url}/503.jpg"),
        product(11, "ftp://cdn.example/1.jpg"),
        product(12, "photos/1.jpg", deleted=True),
        product(13, "photos/1.jpg\0"),
        b"{not json",
    ]
    out = tmp_path / "out"
    done = await collected(write_jsonl(folder / "feed.jsonl", rows), out, settings(host))
    assert reasons(out) == {
        "1": "id_duplicate",
        "2": "image_missing",
        "3": "text_empty",
        "4": "image_truncated",
        "5": "image_unsupported",
        "6": "image_not_found",
        "7": "image_outside_folder",
        "8": "image_outside_folder",
        "9": "image_not_found",
        "10": "image_http_5xx",
        "11": "image_url_invalid",
        "12": "product_deleted",
        "13": "image_not_found",
        None: "malformed_json",
    }
    assert (done.rows, done.products, done.refused) == (15, 1, 14)
    last = list(read_refusals(out))[-1]
    assert last.line == 15
    assert read_collection(out) is not None


async def test_collect_link_is_written_down_without_its_secrets(tmp_path: Path, host: PictureHost) -> None:
    """A query may be a signature: the record of a refusal names host and path only."""
    host.gone = {"1.jpg"}
    rows = [product(1, f"{host.url}/1.jpg?signature=sesame"), product(2, f"{host.url}/2.jpg")]
    await collected(write_jsonl(tmp_path / "feed.jsonl", rows), tmp_path / "out", settings(host))
    assert "sesame" not in (tmp_path / "out/refused.jsonl").read_text()


@pytest.mark.parametrize("link", ["http://[]@", "//me:sesame@[::1/", "https://me:sesame@a℀b/", "http://x[sesame]y@"])
async def test_collect_link_that_cannot_be_read_is_refused_and_not_quoted(
    tmp_path: Path, host: PictureHost, link: str
) -> None:
    """The rest of the feed is collected; no part of such a link is surely no secret."""
    rows = [
        product(1, link),
        product(2, f"{host.url}/2.jpg", additional_image_link=[link]),
        product(3, f"{host.url}/3.jpg"),
    ]
    done = await collected(write_jsonl(tmp_path / "feed.jsonl", rows), tmp_path / "out", settings(host))
    assert done.products >= 1
    assert reasons(tmp_path / "out")["1"] in {"malformed_event", "image_url_invalid"}
    assert "sesame" not in (tmp_path / "out/refused.jsonl").read_text()


async def test_collect_bytes_that_are_no_text_are_refused_and_recorded(tmp_path: Path) -> None:
    """A title in another encoding than UTF-8 spoils its row; the record of it is valid JSON."""
    folder = shop(tmp_path / "shop", 1)
    (folder / "feed.csv").write_bytes(b"id,title,image_link\n1,Mug,photos/1.jpg\n2,M\xfcg,photos/1.jpg\n")
    await collected(folder / "feed.csv", tmp_path / "out")
    assert reasons(tmp_path / "out") == {"2": "malformed_event"}


async def test_collect_cut_in_the_middle_goes_on_with_what_is_missing(tmp_path: Path, host: PictureHost) -> None:
    """After a run that was cut, the next asks only for the pictures that had not arrived."""
    names = [f"{n}.jpg" for n in range(8)]
    host.held, host.gone = {"5.jpg", "6.jpg", "7.jpg"}, {"0.jpg"}
    feed = write_jsonl(tmp_path / "feed.jsonl", [product(n, f"{host.url}/{name}") for n, name in enumerate(names)])
    out = tmp_path / "out"
    onlooker = Onlooker(enough=5)
    run = asyncio.create_task(collect(CollectOptions(feed=feed, out=out), settings(host), onlooker))
    await onlooker.reached.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert not (out / COLLECTION_FILE).exists()
    host.held.clear()
    host.release.set()
    host.requests.clear()
    done = await collected(feed, out, settings(host))
    assert host.requests == {"5.jpg": 1, "6.jpg": 1, "7.jpg": 1}
    assert (done.products, done.refused, done.brought) == (7, 1, 3)
    assert len(read_folder(out)) == 7


async def test_collect_killed_loses_only_what_was_under_way(tmp_path: Path, host: PictureHost) -> None:
    """SIGKILL while the sixth picture is on its way: the next run asks for that one and those behind it."""
    host.held = {"5.jpg"}
    feed = write_jsonl(tmp_path / "feed.jsonl", [product(n, f"{host.url}/{n}.jpg") for n in range(8)])
    out = tmp_path / "out"
    allowed = orjson.dumps([host.url.removeprefix("http://")]).decode()
    killed = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "streamer.cli", "collect", str(feed), "--out", str(out), "--no-survey"),
        # One at a time, so that what was asked for before is known to be kept.
        env=os.environ | {"STREAMER_FETCH__ALLOW_HOSTS": allowed, "STREAMER_FETCH__CONCURRENCY": "1"},
        stderr=asyncio.subprocess.DEVNULL,
    )
    await host.holding.wait()
    killed.kill()
    await killed.wait()
    host.held.clear()
    host.release.set()
    host.requests.clear()
    done = await collected(feed, out, settings(host))
    assert host.requests == {"5.jpg": 1, "6.jpg": 1, "7.jpg": 1}
    assert (done.products, done.brought) == (8, 3)


async def test_collect_again_asks_for_what_may_have_passed(tmp_path: Path, host: PictureHost) -> None:
    """A host that was down is asked again by the next run, a picture that was gone only on demand."""
    host.gone, host.down = {"1.jpg"}, {"2.jpg"}
    rows = [product(n, f"{host.url}/{n}.jpg") for n in (0, 1, 2)]
    feed, out = write_jsonl(tmp_path / "feed.jsonl", rows), tmp_path / "out"
    assert (await collected(feed, out, settings(host))).products == 1
    host.gone.clear()
    host.down.clear()
    assert (await collected(feed, out, settings(host))).products == 2
    assert (await collected(feed, out, settings(host), retry_refused=True)).products == 3


async def test_collect_picture_that_was_damaged_on_disk_is_brought_again(tmp_path: Path, host: PictureHost) -> None:
    """The index is believed only as far as the file is there, whole."""
    feed, out = write_jsonl(tmp_path / "feed.jsonl", [product(1, f"{host.url}/1.jpg")]), tmp_path / "out"
    await collected(feed, out, settings(host))
    (picture,) = (out / "images").iterdir()
    picture.unlink()
    await collected(feed, out, settings(host))
    assert picture.read_bytes() == jpeg(1)
    assert host.requests["1.jpg"] == 2


async def test_collect_limit_takes_the_first_rows(tmp_path: Path) -> None:
    """A first look at a large feed."""
    folder = shop(tmp_path / "shop", 1)
    feed = write_jsonl(folder / "feed.jsonl", [product(n, "photos/1.jpg") for n in range(5)])
    assert (await collected(feed, tmp_path / "out", limit=2)).rows == 2


async def test_collect_hopeless_feed_ends_with_its_reasons(tmp_path: Path) -> None:
    """When the first hundred rows are all refused, the file or an option is wrong: no use to go through a million."""
    feed = write_jsonl(tmp_path / "feed.jsonl", (product(n, "photos/none.jpg") for n in range(1000)))
    with pytest.raises(FatalError, match=r"none of the first 100 rows can be used: image_not_found \(100\)"):
        await collected(feed, tmp_path / "out")


async def test_collect_never_overwrites_a_catalogue_of_somebody_else(tmp_path: Path) -> None:
    """The folder of the feed is not a place to collect into."""
    folder = shop(tmp_path / "shop", 1)
    write_jsonl(folder / CATALOG_FILE, [product(1, "photos/1.jpg")])
    with pytest.raises(FatalError) as caught:
        await collected(folder, folder)
    assert caught.value.code == "out_occupied"


async def test_collect_folder_is_held_by_one_run(tmp_path: Path) -> None:
    """Two runs into one folder would write the same files."""
    folder = shop(tmp_path / "shop", 1)
    feed = write_jsonl(folder / "feed.jsonl", [product(1, "photos/1.jpg")])
    limits = {"max_pixels": 10**6, "max_bytes": 10**6, "threads": 1}
    with PictureStore(tmp_path / "out", **limits), pytest.raises(FatalError) as caught:
        await collected(feed, tmp_path / "out")
    assert caught.value.code == "out_unusable"


async def test_collect_long_feed_is_never_held_in_memory(tmp_path: Path) -> None:
    """Of 20,000 rows that a generator makes, no more than the window stand between reading and writing."""
    folder = shop(tmp_path / "shop", 1, 2, 3)
    onlooker, ahead = Onlooker(), 0

    def rows() -> Iterator[Row]:
        nonlocal ahead
        for number in range(1, 20_001):
            yield Row(number, number, product(number, f"photos/{number % 3 + 1}.jpg"))
            ahead = max(ahead, number - onlooker.rows)

    options = CollectOptions(feed=write_jsonl(folder / "feed.jsonl", []), out=tmp_path / "out")
    limits = {"max_pixels": 10**6, "max_bytes": 10**6, "threads": 1}
    with PictureStore(options.out, **limits) as store, CatalogWriter(options.out) as catalog:
        async with Fetcher(FetchSettings()) as fetcher:
            collector = Collector(options, store, fetcher, places=4)
            await collector.run(Feed(rows(), 20_000, lambda: 0), catalog, onlooker)
        catalog.finish(options.feed, collector.done)
    assert collector.done.products == 20_000
    assert ahead <= WINDOW + 1
    assert (options.out / CATALOG_FILE).read_bytes().count(b"\n") == 20_000


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"base_url": "cdn.example"}, "write http"),
        ({"base_url": "https://cdn.example", "pictures": "."}, "not both"),
    ],
)
async def test_collect_options_that_contradict_each_other_are_refused(
    tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    """Before anything is read."""
    feed = write_jsonl(tmp_path / "feed.jsonl", [])
    with pytest.raises(FatalError, match=said):
        await collected(feed, tmp_path / "out", **options)


async def test_collect_leaves_out_what_was_erased_and_removes_what_earlier_runs_brought(tmp_path: Path) -> None:
    """One was collected, of another a run that was cut had brought the picture: neither stands anywhere afterwards."""
    folder, out = shop(tmp_path / "shop", 1, 2, 3), tmp_path / "out"
    feed = write_jsonl(folder / "feed.jsonl", [product(n, f"photos/{n}.jpg") for n in (1, 2)])
    await collected(feed, out)
    limits = {"max_pixels": 10**6, "max_bytes": 10**6, "threads": 1}
    with PictureStore(out, **limits) as store:
        brought = await store.add_file("3", folder / "photos/3.jpg")
    erasures = Erasures(str(tmp_path / "labels"))
    for number in "23":
        erasures.add(number)
    given = Settings(labels=LabelSettings(dataset=str(tmp_path / "labels")))
    write_jsonl(feed, [product(n, f"photos/{n}.jpg") for n in (1, 2, 3)])
    done = await collected(feed, out, given)
    assert (done.rows, done.products, done.refused) == (3, 1, 2)
    assert [item.id for item in read_folder(out)] == ["1"]
    assert [(one.id, one.title, one.reason) for one in read_refusals(out)] == [(None, None, "product_erased")] * 2
    assert not (out / brought).exists()
    assert len(list((out / "images").iterdir())) == 1
    erasures.remove("2")
    await collected(feed, out, given)
    assert [item.id for item in read_folder(out)] == ["1", "2"]


@pytest.mark.parametrize(("name", "read"), [("collection.json", read_collection), ("refused.jsonl", read_refusals)])
def test_collect_record_that_is_damaged_is_named(tmp_path: Path, name: str, read: Callable[[Path], object]) -> None:
    """Whoever reads a folder learns which file to delete."""
    (tmp_path / name).write_bytes(b'{"rows": ')
    with pytest.raises(CatalogInvalid, match=name):
        list(read(tmp_path) or ())  # type: ignore[call-overload]
