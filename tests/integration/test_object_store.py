"""Evidence, releases and labels in S3, as the cluster keeps them: on moto's server, with the manifests' variables."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import boto3
import fsspec
import pytest

from engines.catalogs.erased import digest
from engines.errors import ReleaseUnavailable
from engines.store import ReleaseStore
from streamer.dataset import LabelDataset
from streamer.demo.broker import free_port
from streamer.erasures import Erasures
from streamer.errors import RejectedEvent, TransientError
from streamer.evidence import EvidenceStore
from streamer.labels import Joined, decide
from tests import tiny_release
from tests.deploy.rendering import ROOT
from tests.review import IMAGE_SHA256, ITEM, LABEL, PICTURE, label

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def _variables(name: str) -> dict[str, str]:
    lines = (ROOT / "k8s/base" / name).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Give the URL of a server that speaks S3, in a process of its own."""
    port = free_port()
    with subprocess.Popen(
        [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            _wait_until_it_listens(port)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def _wait_until_it_listens(port: int, within_s: float = 30.0) -> None:
    ends = time.monotonic() + within_s
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            if time.monotonic() > ends:
                raise
            time.sleep(0.05)


@pytest.fixture
def stores(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Give the URLs that the manifests name, in an empty bucket; the environment is a pod's but for the address."""
    for name, value in (
        _variables("object-store.env")
        | {"AWS_ENDPOINT_URL": server, "AWS_ACCESS_KEY_ID": "shop", "AWS_SECRET_ACCESS_KEY": "secret"}
    ).items():
        monkeypatch.setenv(name, value)
    urls = {name: url for name, url in _variables("settings.env").items() if url.startswith("s3://")}
    (name,) = {url.split("/")[2] for url in urls.values()}
    bucket = boto3.resource("s3", endpoint_url=server, region_name=os.environ["AWS_REGION"]).create_bucket(Bucket=name)
    fsspec.filesystem("s3").clear_instance_cache()
    yield urls
    bucket.objects.delete()
    bucket.delete()


def test_release_is_published_and_fetched(stores: dict[str, str], tmp_path: Path) -> None:
    """Whole, and compared with its digests; one that is not there is told apart from a store that is not."""
    store = ReleaseStore(stores["STREAMER_RELEASES__STORE"])
    directory = tiny_release.write(tmp_path, bias=0.5)
    stored = store.publish(directory)
    assert store.publish(directory) == stored
    assert list(store.names()) == [directory.name]
    with store.fetched(directory.name, manifest_sha256=stored.manifest_sha256) as fetched:
        assert (fetched / "model.onnx").read_bytes() == (directory / "model.onnx").read_bytes()
    with pytest.raises(ReleaseUnavailable) as caught, store.fetched("tiny-ffffffffffff"):
        pass
    assert caught.value.code == "release_unknown"


def test_evidence_is_kept_found_and_erased(stores: dict[str, str]) -> None:
    """The picture goes with the last product that shows it."""
    store = EvidenceStore(stores["STREAMER_EVIDENCE__STORE"])
    store.keep(ITEM, PICTURE)
    assert store.find(LABEL) == ITEM
    assert store.picture(IMAGE_SHA256) == PICTURE
    assert store.erase(ITEM.product_id) == 1
    with pytest.raises(RejectedEvent, match="nothing is kept"):
        store.find(LABEL)
    with pytest.raises(RejectedEvent):
        store.picture(IMAGE_SHA256)


def test_labels_are_written_read_and_erased(stores: dict[str, str]) -> None:
    """Each batch is a version; what is erased is gone from the bucket, too."""
    url = stores["STREAMER_LABELS__DATASET"]
    dataset = LabelDataset(url)
    for reviewer in ("ana", "ben"):
        said = Joined(label(ITEM, reviewer=reviewer), ITEM)
        dataset.keep(IMAGE_SHA256, lambda: PICTURE)
        rows, outcomes = decide(dataset.known({ITEM.item_id}), [said])
        assert outcomes == ["recorded"]
        dataset.write(rows)
    assert sorted(row["reviewer"] for row in dataset.of(ITEM.product_id)) == ["ana", "ben"]
    assert dataset.erase(ITEM.product_id) == 2
    assert list(dataset.of(ITEM.product_id)) == []
    left = [name for name in fsspec.filesystem("s3").find(url) if "_delta_log" not in name]
    assert left == []


def test_list_of_erased_products_is_kept(stores: dict[str, str]) -> None:
    """Whoever looks sees at once what another one has added or removed."""
    url = stores["STREAMER_LABELS__DATASET"]
    worker, job = Erasures(url), Erasures(url)
    assert job.all() == frozenset()
    worker.add(ITEM.product_id)
    worker.add(ITEM.product_id)
    assert ITEM.product_id in job
    assert job.all() == {digest(ITEM.product_id)}
    assert job.remove(ITEM.product_id)
    assert ITEM.product_id not in worker
    assert worker.all() == frozenset()


def test_store_that_does_not_answer_is_tried_again_later(
    stores: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It rejects no label and keeps no worker from going on."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # discard: nobody listens
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    fsspec.filesystem("s3").clear_instance_cache()
    store = EvidenceStore(stores["STREAMER_EVIDENCE__STORE"])
    with pytest.raises(TransientError) as caught:
        store.find(LABEL)
    assert caught.value.code == "store_unavailable"
