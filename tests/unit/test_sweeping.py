"""`streamer.sweeping`: what scorers keep of erased products goes again, and no outage of a store ends that."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import fsspec
import pytest

from engines.catalogs.erased import digest
from streamer.erasures import Erasures
from streamer.errors import TransientError
from streamer.evidence import EvidenceStore
from streamer.sweeping import sweep, sweep_for_ever
from tests.review import IMAGE_SHA256, ITEM, PICTURE, item, label

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OWN = b"another picture"


@pytest.fixture(params=["folder", "object store"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[EvidenceStore, Erasures]]:
    """Give evidence of two products that share a picture, one of which has been erased, in each kind of store."""
    root = str(tmp_path) if request.param == "folder" else "memory://bucket"
    evidence, erasures = EvidenceStore(f"{root}/evidence"), Erasures(f"{root}/labels")
    evidence.keep(ITEM, PICTURE)
    evidence.keep(item("mug-red"), PICTURE)
    erasures.add(ITEM.product_id)
    assert evidence.erase(ITEM.product_id) == 1
    yield evidence, erasures
    memory = fsspec.filesystem("memory")
    if memory.exists("/bucket"):
        memory.rm("/bucket", recursive=True)


async def test_evidence_that_a_scorer_behind_keeps_again_is_erased_again(
    stores: tuple[EvidenceStore, Erasures],
) -> None:
    """It reaches older updates of the product after the erasure; what other products show stays."""
    evidence, erasures = stores
    own = item(picture=OWN)
    evidence.keep(ITEM, PICTURE)
    evidence.keep(own, OWN)
    evidence.point(ITEM.product_id, "a" * 32, ITEM.item_id)
    assert await sweep(evidence, erasures) == 2
    assert list(evidence.items(ITEM.product_id)) == []
    assert evidence._blobs.names(f"images/{own.image_sha256[:2]}") == []
    assert evidence.kept({digest(ITEM.product_id), digest("mug-red")}) == {digest("mug-red")}
    assert evidence.picture(IMAGE_SHA256) == PICTURE
    assert evidence.find(label(item("mug-red"))) == item("mug-red")
    assert await sweep(evidence, erasures) == 0


async def test_product_that_was_restored_keeps_its_evidence(stores: tuple[EvidenceStore, Erasures]) -> None:
    """It stands on the list no more."""
    evidence, erasures = stores
    evidence.keep(ITEM, PICTURE)
    erasures.remove(ITEM.product_id)
    assert await sweep(evidence, erasures) == 0
    assert evidence.find(label(ITEM)) == ITEM


async def test_workers_that_sweep_at_once_leave_nothing(tmp_path: Path) -> None:
    """Whoever finds that another one was faster goes on."""
    evidence, erasures = EvidenceStore(str(tmp_path / "evidence")), Erasures(str(tmp_path / "labels"))
    for number in range(20):
        erasures.add(f"p{number}")
        evidence.keep(item(f"p{number}", picture=PICTURE + bytes([number % 3])), PICTURE + bytes([number % 3]))
    await asyncio.gather(*(sweep(EvidenceStore(str(tmp_path / "evidence")), erasures) for _ in range(4)))
    assert not [path for path in (tmp_path / "evidence").rglob("*") if path.is_file()]


async def test_store_that_does_not_answer_is_swept_the_next_time(
    stores: tuple[EvidenceStore, Erasures], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the list and of the evidence; whoever sweeps goes on until cancelled."""
    evidence, erasures = stores
    evidence.keep(ITEM, PICTURE)
    outages, done = iter([True, False, True, False, False]), asyncio.Event()
    listed, erased, loop = erasures.all, evidence.erase_digest, asyncio.get_running_loop()

    def away() -> None:
        if next(outages, False):
            raise TransientError("store_unavailable", "away")

    def listing() -> frozenset[str]:
        away()
        return listed()

    def erasing(product: str) -> int:
        away()
        items = erased(product)
        loop.call_soon_threadsafe(done.set)
        return items

    monkeypatch.setattr(erasures, "all", listing)
    monkeypatch.setattr(evidence, "erase_digest", erasing)
    sweeping = asyncio.create_task(sweep_for_ever(evidence, erasures, every_s=0.0))
    async with asyncio.timeout(30):
        await done.wait()
    assert not sweeping.done()
    sweeping.cancel()
    with suppress(asyncio.CancelledError):
        await sweeping
    assert list(evidence.items(ITEM.product_id)) == []
    assert next(outages, None) is None
