"""Stand-ins with the interfaces of the real parts, for tests that are about something else."""

from __future__ import annotations

import asyncio
import hashlib
import io
import re
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import orjson
from PIL import Image

from engines.contract import Batch, Calibration, ImageSpec, Manifest, TextSpec
from engines.errors import InferenceFailed
from engines.image import decode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor

    from numpy.typing import NDArray

    from streamer.answers import Validator
    from streamer.batch import Lane
    from streamer.fetch import Fetched, NotModified
    from streamer.serving import Decode, Serving

SIDE = 8
TOKENS = 4
WORDS = 8


def manifest(**changes: object) -> Manifest:
    """A manifest for tiny inputs; `changes` replace fields."""
    fields: dict[str, object] = {
        "schema_version": 1,
        "release": "fake-000000000000",
        "family": "fake",
        "created_at": "2026-01-01T00:00:00Z",
        "inputs": (),
        "image": ImageSpec(height=SIDE, width=SIDE),
        "text": TextSpec(max_tokens=TOKENS, fields=("title", "color")),
        "calibration": Calibration(),
        "threshold": 0.5,
        "thresholds": {},
        "max_batch": 8,
        "parent": None,
        "metrics": {},
        "provenance": {},
        "files": {},
    }
    return Manifest(**(fields | changes))  # type: ignore[arg-type]


class FakeEngine:
    """Answers each pair with its picture's mean red (0..255), less 127.5; fails on demand.

    `gate`, when set, is waited for at the start of each batch, from the engine's thread; `memory` is the largest batch
    that it can run.
    """

    device = "fake"
    concurrency = 1

    def __init__(
        self, *, poison: int | None = None, gate: Callable[[], object] | None = None, memory: int | None = None
    ) -> None:
        self.manifest = manifest()
        self.memory = memory
        self.batches: list[int] = []
        self.poison = poison
        self.gate = gate

    def infer(self, batch: Batch) -> NDArray[np.float32]:
        if self.gate is not None:
            self.gate()
        if self.memory is not None and len(batch) > self.memory:
            raise MemoryError
        self.batches.append(len(batch))
        red = batch.pixel_values[:, 0].mean(axis=(1, 2))
        if self.poison is not None and (red.round() == self.poison).any():
            raise InferenceFailed("poisoned")
        return (red - 127.5).astype(np.float32)

    def close(self) -> None:
        pass


MINDED = 3  # the fourth word, `navy` in `title: mug` and `color: navy`


class MindfulEngine(FakeEngine):
    """Minds the fourth word of texts with red pictures."""

    def infer(self, batch: Batch) -> NDArray[np.float32]:
        logits = super().infer(batch)
        return np.where(batch.attention_mask[:, MINDED] > 0, logits, -10.0).astype(np.float32)


class FakeTokenizer:
    """Every text is the same tokens."""

    unknown_id = None

    def encode(self, texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        shape = (len(texts), TOKENS)
        return np.ones(shape, np.int32), np.ones(shape, np.int32)

    def spans(self, text: str) -> NDArray[np.int32]:
        return np.zeros((TOKENS, 2), np.int32)


class WordTokenizer:
    """Each word of a text is a token, whose id is 1; texts have at most `WORDS` words."""

    spec = TextSpec(max_tokens=WORDS, fields=("title", "color"))
    unknown_id = None

    def encode(self, texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        mask = np.array([(self.spans(text)[:, 1] > 0).astype(np.int32) for text in texts])
        return np.ones_like(mask), mask

    def spans(self, text: str) -> NDArray[np.int32]:
        words = [match.span() for match in re.finditer(r"\S+", text)]
        padded = [*words, *[(0, 0)] * WORDS][:WORDS]
        return np.array(padded, dtype=np.int32)


async def _decoded(data: bytes, spec: ImageSpec) -> NDArray[np.uint8]:
    return decode(data, spec, max_pixels=10**6)


def fake_serving(
    lane: Lane,
    executor: Executor,
    *,
    tokenizer: FakeTokenizer | WordTokenizer | None = None,
    decoded: Decode | None = None,
    explained_share: float = 0.1,
    heat_map_share: float = 0.0,
) -> Serving:
    """A release at work on a fake engine; pictures are decoded for real unless `decoded` stands for that."""
    from streamer.serving import Serving  # noqa: PLC0415 - keeps fakes importable alone

    return Serving(
        lane=lane,
        tokenizer=tokenizer or FakeTokenizer(),  # type: ignore[arg-type]
        decode=decoded or partial(_decoded, spec=lane.engine.manifest.image),
        executor=executor,
        explained_share=explained_share,
        heat_map_share=heat_map_share,
    )


class FakeFetcher:
    """Serves what `pages` holds: bytes or an error; `hold` makes a URL wait until `release` is called for it."""

    def __init__(self, pages: dict[str, bytes | Exception]) -> None:
        self.pages = pages
        self.asked: list[str] = []
        self._held: dict[str, asyncio.Event] = {}

    def hold(self, url: str) -> None:
        self._held[url] = asyncio.Event()

    def release(self, url: str) -> None:
        self._held.pop(url).set()

    async def get(self, url: str, validator: Validator | None = None) -> Fetched | NotModified:
        from streamer.answers import Validator  # noqa: PLC0415 - keeps fakes importable alone
        from streamer.fetch import Fetched, NotModified  # noqa: PLC0415

        self.asked.append(url)
        if url in self._held:
            await self._held[url].wait()
        page = self.pages[url]
        if isinstance(page, Exception):
            raise page
        etag = f'"{hash(page)}"'
        if validator is not None and validator.etag == etag:
            return NotModified()
        return Fetched(page, hashlib.sha256(page).hexdigest(), Validator(etag=etag, last_modified=None))


class Published:
    """Keeps what was published, by topic, in order; each record as the JSON that a consumer would read."""

    def __init__(self) -> None:
        self.records: list[tuple[str, bytes | None, dict[str, object]]] = []
        self.gate: asyncio.Event | None = None

    async def __call__(
        self, topic: str, key: bytes | None, value: bytes, headers: Sequence[tuple[str, bytes]] = ()
    ) -> None:
        if self.gate is not None:
            await self.gate.wait()
        self.records.append((topic, key, orjson.loads(value)))

    def topic(self, name: str) -> list[dict[str, object]]:
        return [record for topic, _, record in self.records if topic == name]


def png(red: int) -> bytes:
    """A picture whose every pixel is (red, 0, 0)."""
    buffer = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), (red, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()
