"""`python -m engines.build`, whole: from a catalogue to a release that loads, with a model too small to learn."""

from __future__ import annotations

import csv
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest
import torch
from rich.progress import Progress
from safetensors.torch import load_file
from typer.testing import CliRunner

from engines import golden, releases
from engines.build import adapt, asking, audit, run
from engines.build.adapt import adapt_folder
from engines.build.cli import app
from engines.build.gather import gather_parts
from engines.build.recipe import AdaptRecipe, Recipe
from engines.build.report.audit import CSV_FILE
from engines.build.warm_start import WarmStart
from engines.catalogs import rendered
from engines.runtime.loader import load, load_checked, load_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from engines.build.gather import Parts

PRODUCTS = 280  # of an audit: each fold needs 50 to train on, and 60 to choose with
TINY = Recipe(
    epochs=1,
    seed=5,
    image_size=32,
    image_sizes=((0.5, 16),),
    max_tokens=16,
    vocabulary_size=200,
    model={"channels": (4, 8, 8, 16), "width": 16, "layers": 2, "heads": 2},
)


@pytest.mark.slow
def test_build_rendered_publishes_a_release_that_runs(tmp_path: Path) -> None:
    """The whole way ends in a verified release with threshold, metrics and provenance."""
    with Progress(disable=True) as progress:
        release = run.build_rendered(tmp_path, TINY, products=48, precision=0.5, progress=progress)
    manifest = releases.verify(release)
    assert 0 <= manifest.threshold <= 1
    assert manifest.metrics["test"]["all"]["pairs"] > 0
    assert manifest.provenance["recipe"]["seed"] == 5
    assert load(release, threads=1).manifest.release == release.name
    assert load_tokenizer(release).encode(["red mug"])[0].shape == (1, 16)
    engine, _ = load_checked(release, threads=1)  # its golden pairs, made on the graph that was exported
    pairs = golden.read(release, engine.manifest)
    assert pairs is not None
    assert len(pairs.pairs) == golden.PAIRS


@pytest.mark.slow
def test_build_folder_publishes_a_release_that_runs(tmp_path: Path) -> None:
    """A folder of pictures goes the same way, and the release holds none of its products."""
    catalog = rendered.render_catalog(400, 6)
    rendered.write_folder(catalog, tmp_path / "shop", 32)
    with Progress(disable=True) as progress:
        release = run.build_folder(tmp_path / "shop", tmp_path / "out", TINY, precision=0.5, progress=progress)
    manifest = releases.verify(release)
    assert manifest.provenance["catalog"] == "shop"
    asked = golden.read(release, manifest)
    assert asked is not None
    assert len(asked.pairs) == golden.PAIRS
    assert not [one for one in asked.pairs if one.fields in [product.fields for product in catalog]]
    assert np.isfinite(releases.read_manifest(release).calibration.scale)


@pytest.mark.slow
def test_adapt_publishes_a_release_that_runs_and_others_begin_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pretrained backbones and hardly trained fusion layers: graded figures, and an engine that loads.

    What its readers have learned another catalogue begins with.
    """
    rendered.write_folder(rendered.render_catalog(200, 6), tmp_path / "shop", 48)
    recipe = AdaptRecipe(
        seed=5,
        shares=(0.4, 0.3, 0.3),
        epochs=0.1,
        views=2,
        max_tokens=16,
        model={"image_size": 96, "width": 32, "layers": 1, "heads": 2, "joint": 16, "readers": 2},
        wrong_texts=1,
        attributes=True,
    )
    with Progress(disable=True) as progress:
        release = adapt_folder(
            tmp_path / "shop",
            tmp_path / "out",
            tmp_path / "work",
            recipe,
            precision=0.5,
            prevalence=0.02,
            progress=progress,
        )
    manifest = releases.verify(release)
    assert manifest.family == "compact"
    assert manifest.metrics["prevalence"] == 0.02
    assert "where 2.0% of the pictures are wrong" in manifest.metrics["thresholds"]["out_of_reach"]["words"]
    assert {"all", "easy", "hard", "nearest", "variant"} <= set(manifest.metrics["test"])
    assert manifest.attributes is not None
    assert manifest.attributes.numbers == ("price",)
    assert "color" in manifest.attributes.categories
    assert load(release, threads=1).manifest.release == release.name
    assert len(list((tmp_path / "work").glob("checkpoint-*.pt"))) == 2  # one for each reader
    assert not [path for path in (tmp_path / "work").iterdir() if path.is_dir()], "features are kept"
    assert manifest.provenance["warm_start_sha256"] is None, "what ships is of other sizes"
    trained = load_file(release / releases.WEIGHTS_FILE)
    assert len(trained["novelty.known"]) == manifest.provenance["products"]
    least, most = trained["novelty.bounds"]
    assert 0 <= least < most < 1, "held-out texts have words in common with known ones"

    file = tmp_path / "begun.safetensors"
    asked = ["warm-start", str(release), str(tmp_path / "shop"), "--out", str(file)]
    assert CliRunner().invoke(app, asked).exit_code == 0
    start = WarmStart.read(file)
    monkeypatch.setattr(adapt, "shipped", lambda: start)
    monkeypatch.setattr(adapt, "rehearse", lambda _: None)
    rendered.write_folder(rendered.render_catalog(200, 7), tmp_path / "other", 48)
    monkeypatch.setattr(adapt, "MOST_SHARED", 1.0)  # drawn pictures look much alike
    with Progress(disable=True) as progress:
        parts = gather_parts(
            tmp_path / "other", image=adapt.image_spec(recipe), seed=5, progress=progress, shares=recipe.shares
        )
        prepared = adapt.prepare(parts, "other", tmp_path / "other-work", replace(recipe, wrong_texts=0), progress)
    assert prepared.start is start
    assert prepared.source.provenance["recipe"]["least_steps"] == 200
    first, taught = prepared.model.each_reader()[0], start.readers[0]["states.weight"]
    torch.testing.assert_close(first.states.weight.detach(), taught)


@pytest.mark.slow
def test_audit_judges_every_product_once_and_goes_on_where_it_was_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two folds, one list, most suspicious first; what is finished is not done again, what is not is."""
    monkeypatch.setattr(asking, "JUDGED_AT_ONCE", 100)
    monkeypatch.setattr("engines.build.adapt.rehearse", lambda _: None)  # `adapt` does it above; each takes an export
    monkeypatch.setattr("engines.build.assemble.explain", lambda *_: {})  # as above
    rendered.write_folder(rendered.render_catalog(PRODUCTS, 6), tmp_path / "shop", 48)
    recipe = AdaptRecipe(
        seed=5,
        epochs=0.1,
        views=2,
        max_tokens=16,
        model={"image_size": 96, "width": 32, "layers": 1, "heads": 2, "joint": 16, "readers": 1},
    )

    def run_audit() -> list[dict[str, str]]:
        with Progress(disable=True) as progress:
            page = audit.audit_folder(
                tmp_path / "shop",
                tmp_path / "out",
                tmp_path / "work",
                recipe,
                folds=2,
                precision=0.5,
                progress=progress,
                explained=5,  # an engine that has learnt nothing alerts everywhere
                heat_maps=1,
            )
        assert f"{PRODUCTS} products" in page.read_text(encoding="utf-8")
        with (page.parent / CSV_FILE).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    rows = run_audit()
    assert len({row["id"] for row in rows}) == len(rows) == PRODUCTS
    probabilities = [float(row["probability"]) for row in rows]
    assert probabilities == sorted(probabilities, reverse=True)
    assert {row["fold"] for row in rows} == {"0", "1"}

    assert not list((tmp_path / "work").glob("fold-*/training")), "features are kept"

    fold = tmp_path / "work" / "fold-1"
    (stamp,) = fold.glob("release-*")
    known = stamp.read_text()
    monkeypatch.setattr(audit, "adapt_parts", lambda *_, **__: pytest.fail("trained again"))
    next(fold.glob("judged-*.json")).unlink()
    assert run_audit() == rows, "judged again, by the release that was there"

    trained: list[Parts] = []

    def unfinished(parts: Parts, *_: Any, **__: Any) -> Path:  # noqa: ANN401 - takes what comes
        trained.append(parts)
        return fold / known

    monkeypatch.setattr(audit, "adapt_parts", unfinished)
    for kept in (*fold.glob("judged-*.json"), stamp):
        kept.unlink()
    assert run_audit() == rows
    assert len(trained) == 1, "a fold without a release is trained"


def test_audit_of_a_product_whose_text_is_a_code_names_it_before_it_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Codes are not read; an engine that has taken hours would have nothing of this product to judge."""
    monkeypatch.setattr(audit, "adapt_parts", lambda *_, **__: pytest.fail("trained"))
    shop = tmp_path / "shop"
    rendered.write_folder(rendered.render_catalog(300, 6), shop, 32)
    rows = [orjson.loads(line) | {"style": f"AB-{n:04}"} for n, line in enumerate(catalog_lines(shop))]
    rows[7] = {name: rows[7][name] for name in ("id", "image_link", "style")}
    (shop / "catalog.jsonl").write_bytes(b"\n".join(map(orjson.dumps, rows)))
    result = CliRunner().invoke(app, ["audit", str(shop), "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert f"text_empty: {rows[7]['id']}: no field" in result.output


def catalog_lines(shop: Path) -> list[bytes]:
    """Return the lines of a folder's catalogue."""
    return (shop / "catalog.jsonl").read_bytes().splitlines()


def test_audit_that_cannot_be_split_says_so_before_it_trains(tmp_path: Path) -> None:
    """Products that all share something leave nothing to train on."""
    rendered.write_folder(rendered.render_catalog(80, 6), tmp_path / "shop", 32)
    result = CliRunner().invoke(app, ["audit", str(tmp_path / "shop"), "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "each needs 50" in result.output


def test_build_folder_without_a_catalogue_says_what_is_missing(tmp_path: Path) -> None:
    """A wrong path ends with the error's code and words, not with a traceback."""
    result = CliRunner().invoke(app, ["adapt", str(tmp_path), "--family", "small", "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "catalog_invalid" in result.output
    assert "catalog.jsonl" in result.output


def test_build_folder_too_small_to_split_is_refused(tmp_path: Path) -> None:
    """A handful of products cannot be split into three parts that say anything."""
    rendered.write_folder(rendered.render_catalog(20, 6), tmp_path, 32)
    result = CliRunner().invoke(app, ["adapt", str(tmp_path), "--family", "small", "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "each part needs" in result.output


def test_adapt_shares_that_are_no_whole_are_refused(tmp_path: Path) -> None:
    """Nobody means to use twice the catalogue."""
    options = ["adapt", str(tmp_path), "--out", str(tmp_path / "out"), "--shares", "0.5", "0.5", "1.0"]
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 2
    assert "sum must be 1" in " ".join(result.output.split())
