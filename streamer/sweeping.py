"""Evidence that came back after its product was erased is erased again.

A scorer reaches a deletion behind all older updates of the product, which may be long after the erasure, and a product
that stays in the catalogue is scored on. Folders of evidence are named as the list names erased products, so no id is
needed. Any number of label workers may sweep at once: what is gone is gone.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from streamer.errors import TransientError

if TYPE_CHECKING:
    from streamer.erasures import Erasures
    from streamer.evidence import EvidenceStore

log = structlog.get_logger(__name__)

SWEEP_EVERY_S: Final = 600.0
"""How long what came back may stand: minutes, since somebody wants it gone; and not seconds, since a sweep takes up to
257 listings (of the list and of 256 folders of products), so 37,000 a day for each worker, which object stores bill."""


async def sweep_for_ever(evidence: EvidenceStore, erasures: Erasures, *, every_s: float = SWEEP_EVERY_S) -> None:
    """Sweep now and then again and again, until cancelled; a store that does not answer is asked at the next sweep."""
    while True:
        try:
            await sweep(evidence, erasures)
        except TransientError as error:
            log.warning("evidence.not_swept", reason=error.code, message=str(error), retry_s=every_s)
        await asyncio.sleep(every_s)


async def sweep(evidence: EvidenceStore, erasures: Erasures) -> int:
    """Erase what is kept of products on the list; return how many items that were.

    Raises:
        TransientError: store_unavailable; what was not reached waits for the next sweep.
    """
    listed = await asyncio.to_thread(erasures.all)
    back = await asyncio.to_thread(evidence.kept, listed)
    items = 0
    for product in back:  # one by one: whoever stops the worker waits for no more than that
        items += await asyncio.to_thread(evidence.erase_digest, product)
    if back:
        log.info("evidence.swept", products=len(back), items=items)
    return items
