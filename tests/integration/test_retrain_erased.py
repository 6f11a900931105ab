"""Erased products and `streamer retrain`: they leave its catalogue and labels, and end a run that has learned them."""

from __future__ import annotations

import asyncio
import json
from io import StringIO
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from engines.catalogs import erased, judged
from engines.catalogs.folder import read_folder
from streamer import promotion
from streamer import retrain as retraining_job
from streamer.adapt import train
from streamer.pictures import INDEX_FILE, open_index
from streamer.retrain import retrain
from streamer.retrain_runs import Runs
from streamer.settings import RetrainSettings
from tests import retrain_place, tiny_release
from tests.retrain_place import PROGRAM, Place

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from streamer.demo.broker import EmbeddedBroker


@pytest.fixture
def place(tansu: EmbeddedBroker, tmp_path: Path) -> Place:
    """A broker with topics, a champion, and labels of some products."""
    return retrain_place.make(tansu, tmp_path)


def shop(place: Place) -> Path:
    """Write a catalogue of three products and two pictures, as `streamer collect` leaves it; return its folder."""
    folder = place.folder / "shop"
    (folder / "images").mkdir(parents=True)
    open_index(folder / INDEX_FILE).close()
    names = [f"{str(number) * 64}.png" for number in (1, 2)]
    for name in names:
        (folder / "images" / name).write_bytes(b"png")
    rows = [{"id": f"c{number}", "image_link": f"images/{names[number // 2]}"} for number in range(3)]
    (folder / "catalog.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def erasing(place: Place, product_id: str, folder: Path) -> Callable[..., int]:
    """Return a training of which the job hears when a product has been erased, and has left its folder, meanwhile."""

    def trained(command: list[str], variables: dict[str, str] | None = None) -> int:
        code = train(command, variables)
        if "retrain" in command:
            place.erasures.add(product_id)
            rows = (folder / "catalog.jsonl").read_text().splitlines()
            (folder / "catalog.jsonl").write_text("\n".join(row for row in rows if f'"{product_id}"' not in row))
        return code

    return trained


def test_erased_products_leave_the_folder_and_the_training(place: Place) -> None:
    """The list goes to the training program; the picture that another product shows stays."""
    folder = shop(place)
    for product_id in ("c0", "c2", "elsewhere"):
        place.erasures.add(product_id)
    assert place.retrain("fail", catalog=folder) == 2
    (run,) = place.runs()
    assert [item.id for item in read_folder(folder)] == ["c1"]
    assert [path.name[0] for path in (folder / "images").iterdir()] == ["1"]
    assert erased.read(run / "erased.txt") == {erased.digest(one) for one in ("c0", "c2", "elsewhere")}
    assert place.asked()[-1] == ["retrain", tiny_release.write(place.folder / "made").name, str(run / "erased.txt")]
    place.erasures.remove("c0")  # a run does not learn in its middle what it began without
    assert place.retrain("fail") == 2
    assert len(erased.read(run / "erased.txt")) == 3


def test_erased_products_leave_the_folder_of_a_job_that_has_nothing_to_do(place: Place) -> None:
    """They do not wait there until enough is judged."""
    folder = shop(place)
    place.erasures.add("c2")
    patient = place.settings.model_copy(update={"retrain": RetrainSettings(min_labels=100)})
    assert place._replace(settings=patient).retrain(if_needed=True, catalog=folder) == 0
    assert place.runs() == []
    assert [item.id for item in read_folder(folder)] == ["c0", "c1"]
    assert len(list((folder / "images").iterdir())) == 1


def test_folder_that_cannot_be_purged_is_said_and_its_products_left_out(place: Place) -> None:
    """Its owner is told where to delete them; training is given the list all the same."""
    folder = shop(place)
    for path in folder.glob(f"{INDEX_FILE}*"):
        path.unlink()
    place.erasures.add("c0")
    said = StringIO()
    options = place.options("fail", catalog=folder)
    retrain(options, place.settings, Console(file=said), asyncio.run, program=PROGRAM, needs=())
    assert f"1 erased products stand in {folder} still: delete them there" in said.getvalue()
    (run,) = place.runs()
    assert erased.read(run / "erased.txt") == {erased.digest("c0")}
    assert len(read_folder(folder)) == 3


@pytest.mark.parametrize("product_id", ["c1", "p3"], ids=["of its catalogue", "of its labels"])
def test_run_that_has_learned_an_erased_product_is_given_up(
    place: Place, monkeypatch: pytest.MonkeyPatch, product_id: str
) -> None:
    """Erased between two jobs, or while it trains, and gone from the folder by then: it is not promoted either way."""
    folder = shop(place)
    assert place.retrain("fail", catalog=folder) == 2
    place.erasures.add("elsewhere")
    assert place.retrain("fail", catalog=folder) == 2
    assert len(place.runs()) == 1
    place.erasures.add("c2")
    assert place.retrain("fail", catalog=folder) == 2
    first, second = place.runs()
    assert json.loads((first / "ended.json").read_text())["outcome"] == "given up"
    assert not (first / "champion").exists()
    monkeypatch.setattr(retraining_job, "train", erasing(place, product_id, folder))
    (second / "run.json").write_text((second / "run.json").read_text().replace('"fail"', '"promote"'))
    assert place.retrain(catalog=folder) == 2
    assert json.loads((second / "ended.json").read_text())["outcome"] == "given up"
    assert asyncio.run(promotion.announced_release(place.settings)) is None
    assert {path.name for path in second.iterdir()}.isdisjoint(
        {"erased.txt", "learned.txt", "labels", "champion", "challenger"}
    )
    assert (second / "card" / "model-card.md").exists()


def test_weights_of_a_run_that_is_killed_as_it_is_given_up_go_with_the_next_job(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has learned from what was erased: marked as ended, its challenger still there."""
    assert place.retrain("fail") == 2
    (run,) = place.runs()
    tiny_release.write(run / "challenger", bias=1.25)
    place.erasures.add("p3")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Runs, "tidy", killed)
        with pytest.raises(KeyboardInterrupt):
            place.retrain("fail")
    assert (run / "challenger").exists()
    assert place.retrain("fail") == 2
    assert not (run / "challenger").exists()


def test_job_that_has_nothing_to_do_and_nothing_erased_does_not_read_the_catalogue(place: Place) -> None:
    """A folder that is not there, yet or any more, is no failure of a nightly job without a reason to train."""
    patient = place.settings.model_copy(update={"retrain": RetrainSettings(min_labels=100)})
    assert place._replace(settings=patient).retrain(if_needed=True, catalog=place.folder / "nowhere") == 0


def test_label_on_an_erased_product_is_not_pinned(place: Place) -> None:
    """One that a worker wrote at the very moment of the erasure stands in the data set and is not learned from."""
    place.erasures.add("p3")
    assert place.retrain("fail") == 2
    (run,) = place.runs()
    assert {one.product_id for one in judged.read_judged(run / "labels")} == {f"p{n}" for n in (0, 1, 2, 4, 5)}
