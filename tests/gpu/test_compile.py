"""Compiling from end to end on a fake GPU, with real casts, real golden pairs and real numbers from ONNX Runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from rich.progress import Progress

from engines import golden, plans, releases
from engines.build.compile import builder, cli, gate, report, run
from engines.build.dataset import Product
from engines.contract import AttributeColumns, Calibration, top_level
from engines.errors import (
    EngineUnavailable,
    ParityExceeded,
    PlanMissing,
    ReleaseRefused,
    ReleaseUnavailable,
    TextRefused,
)
from engines.runtime.inputs import blank
from engines.runtime.loader import Place, load_plan, require_plan
from engines.runtime.onnx import OnnxEngine
from engines.store import ReleaseStore
from engines.text import Tokenizer
from tests import fakes
from tests.fake_gpu import FakeCuda, FakeTensorRT, nothing_left

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from engines.build.assemble import Source

pytestmark = pytest.mark.usefixtures("one_torch_thread")

TARGET = builder.Target(buckets=(1, 4))


@pytest.fixture(scope="module")
def made(
    exported_family: Callable[[str], tuple[Source, Path]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, gate.Golden]:
    """Give a release of a tiny random model, calibrated so that its pairs differ, and golden pairs.

    Drawing starts processes, so the tests share them.
    """
    folder = tmp_path_factory.mktemp("release")
    source, model = exported_family("clip")
    source.tokenizer.save(str(folder / "tokenizer.json"))
    manifest = fakes.manifest(family="clip", inputs=source.inputs, image=source.image, text=source.text)
    with Progress(disable=True) as progress:
        tokenizer = Tokenizer.from_file(folder / "tokenizer.json", manifest.text)
        pairs = gate.gather(manifest, tokenizer, count=24, progress=progress)
        logits = pairs.score(OnnxEngine(model, manifest, threads=1), progress)
    scale = 1 / float(logits.std())
    calibrated = msgspec.structs.replace(
        manifest, calibration=Calibration(scale=scale, shift=-scale * float(logits.mean()))
    )
    files = {"model.onnx": model, "tokenizer.json": folder / "tokenizer.json"}
    return releases.write_release(folder / "releases", calibrated, files), pairs


@pytest.fixture
def release(made: tuple[Path, gate.Golden]) -> Path:
    """Give the release's directory."""
    return made[0]


@pytest.fixture
def pairs(made: tuple[Path, gate.Golden]) -> gate.Golden:
    """Give its golden pairs."""
    return made[1]


@pytest.fixture
def cuda() -> FakeCuda:
    """Give a GPU with room for everything."""
    return FakeCuda()


@pytest.fixture
def compile_here(
    release: Path, pairs: gate.Golden, cuda: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., plans.PlanRecord]:
    """Give what compiles the release into a folder, with the shared pairs; `change` is what the GPU does to logits."""
    monkeypatch.setattr(gate, "gather", lambda *_, **__: pairs)

    def compile_it(directory: Path = release, **changes: Any) -> plans.PlanRecord:  # noqa: ANN401 - any of the options
        trt = FakeTensorRT(cuda, change=changes.pop("change", lambda logits: logits))
        options = run.Options(folder=tmp_path, target=TARGET, **changes)
        with Progress(disable=True) as progress, nothing_left(cuda):
            return run.compile_release(directory, options, trt=trt, cuda=cuda, progress=progress)

    return compile_it


def test_compile_stores_a_plan_that_a_worker_loads(
    compile_here: Callable[..., plans.PlanRecord], release: Path, cuda: FakeCuda, tmp_path: Path
) -> None:
    """In half precision: proven, found by its key, run."""
    record = compile_here()
    assert record.precision == "fp16"
    assert record.provenance["lowered"] > 20
    assert 0 < record.parity["largest"] < 0.02
    assert record.parity["spread"] > 0.05, "pairs that score alike prove nothing"
    manifest = releases.verify(release)
    engine = load_plan(release, manifest, Place(plans=tmp_path), None, cuda=cuda, trt=FakeTensorRT(cuda))
    assert engine.manifest.max_batch == 4
    assert engine.infer(blank(engine.manifest, 3)).shape == (3,)
    engine.close()


def test_compile_leaves_the_release_as_it_was(compile_here: Callable[..., plans.PlanRecord], release: Path) -> None:
    """Plans stand beside it and are no part of its digest."""
    before = releases.verify(release)
    compile_here()
    assert releases.verify(release) == before


def test_compile_of_a_plan_that_drifts_is_refused(
    compile_here: Callable[..., plans.PlanRecord], tmp_path: Path
) -> None:
    """With the worst pairs and what to try; only the timing cache is kept."""
    with pytest.raises(ParityExceeded, match=r"differs from ONNX by up to 0\.\d+ (?s:.)*Try --precision bf16, or fp32"):
        compile_here(change=lambda logits: logits * 1.5)
    assert [path.suffix for path in tmp_path.iterdir()] == [".timing"]


def test_compile_of_a_plan_that_flips_alerts_is_refused(compile_here: Callable[..., plans.PlanRecord]) -> None:
    """Also where probabilities may differ by anything."""
    with pytest.raises(ParityExceeded, match="of the alerts flip"):
        compile_here(tolerance=gate.Tolerance(1.0, 0.0), change=np.negative)


def test_compile_of_a_plan_with_wider_tolerance_passes(compile_here: Callable[..., plans.PlanRecord]) -> None:
    """Who compiles decides what is close enough, and the record says so."""
    record = compile_here(tolerance=gate.Tolerance(1.0, 1.0), change=lambda logits: logits * 1.5)
    assert record.parity["allowed"] == {"difference": 1.0, "flips": 1.0}
    assert record.parity["largest"] > 0.02


def test_compile_of_a_plan_that_a_worker_would_refuse_is_refused(
    release: Path, pairs: gate.Golden, cuda: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the gate lets pass: a worker asks the release's own golden pairs, and goes by logits."""
    manifest = releases.read_manifest(release)
    tokenizer = Tokenizer.from_file(release / "tokenizer.json", manifest.text)
    picture = np.full((3, manifest.image.height, manifest.image.width), 127, np.uint8)
    reference = OnnxEngine(release / "model.onnx", manifest, threads=1)
    asked = golden.make(reference, tokenizer, [({"title": "red mug"}, picture)])
    (tmp_path / "golden.json").write_bytes(golden.encode(asked))
    files = {name: release / name for name in manifest.files} | {"golden.json": tmp_path / "golden.json"}
    with_pairs = releases.write_release(tmp_path / "releases", manifest, files)
    monkeypatch.setattr(gate, "gather", lambda *_, **__: pairs)
    options = run.Options(folder=tmp_path / "plans", target=TARGET, tolerance=gate.Tolerance(1.0, 1.0))

    def compile_on(trt: FakeTensorRT) -> None:
        with Progress(disable=True) as progress, nothing_left(cuda):
            run.compile_release(with_pairs, options, trt=trt, cuda=cuda, progress=progress)

    with pytest.raises(ReleaseRefused, match="to golden pair 0"):
        compile_on(FakeTensorRT(cuda, change=lambda logits: logits + 0.1 * np.maximum(1, np.abs(logits))))
    assert not list((tmp_path / "plans").glob("*.plan"))
    compile_on(FakeTensorRT(cuda))
    assert list((tmp_path / "plans").glob("*.plan"))


def test_compile_takes_a_release_from_the_store_by_its_name(
    compile_here: Callable[..., plans.PlanRecord], release: Path, tmp_path: Path, cuda: FakeCuda
) -> None:
    """Fetched as scorers do, removed afterwards; its plan stands where they look for it, under its name."""
    store = ReleaseStore(str(tmp_path / "store"))
    store.publish(release)
    with cli.found(release.name, store.url, tmp_path) as directory:
        compile_here(directory)
    assert not directory.exists()
    manifest = releases.verify(release)
    engine = load_plan(release, manifest, Place(plans=tmp_path), None, cuda=cuda, trt=FakeTensorRT(cuda))
    engine.close()


def test_compile_from_a_store_without_a_folder_for_the_plan_is_refused(tmp_path: Path) -> None:
    """The release's own directory is gone afterwards; one that the store does not have is told as such."""
    with pytest.raises(EngineUnavailable, match="--plans DIR"), cli.found("clip-0123456789ab", str(tmp_path), None):
        pass
    with (
        pytest.raises(ReleaseUnavailable, match="has no release"),
        cli.found("clip-0123456789ab", str(tmp_path), tmp_path),
    ):
        pass


def test_compile_hands_the_timing_cache_on(compile_here: Callable[..., plans.PlanRecord], tmp_path: Path) -> None:
    """The next build on this GPU begins with what this one has timed."""
    compile_here()
    (cache,) = tmp_path.glob("*.timing")
    assert cache.read_bytes() == b"+"
    compile_here()
    assert cache.read_bytes() == b"++"
    cache.write_bytes(b"other GPU's")
    compile_here()
    assert cache.read_bytes() == b"+"


def test_golden_pairs_are_the_same_for_a_seed(release: Path, pairs: gate.Golden) -> None:
    """Half right, half wrong, each wrong one with a picture that is not its own."""
    manifest = releases.read_manifest(release)
    tokenizer = Tokenizer.from_file(release / "tokenizer.json", manifest.text)
    with Progress(disable=True) as progress:
        again = gate.gather(manifest, tokenizer, count=24, progress=progress)
    assert (again.pairs.picture == pairs.pairs.picture).all()
    assert (again.catalog.pixel_values == pairs.catalog.pixel_values).all()
    assert pairs.pairs.label.mean() == pytest.approx(0.5)
    wrong = pairs.pairs.label == 1
    assert (pairs.pairs.picture[wrong] != pairs.pairs.product[wrong]).all()


def test_golden_pairs_of_unreadable_texts_ask_for_a_catalogue(release: Path) -> None:
    """An engine may read fields that drawn products do not have."""
    manifest = releases.read_manifest(release)
    text = msgspec.structs.replace(manifest.text, fields=("titulo",))
    tokenizer = Tokenizer.from_file(release / "tokenizer.json", text)
    with Progress(disable=True) as progress, pytest.raises(TextRefused, match="--catalog DIR"):
        gate.gather(manifest, tokenizer, count=4, progress=progress)


def test_golden_attributes_are_drawn_within_their_columns() -> None:
    """Numbers, a place for each category or behind the last, and some that are not known."""
    columns = AttributeColumns(numbers=("price",), categories={"color": ("red", "blue")})
    drawn = gate._drawn_attributes(columns, 200, 0)
    assert drawn.shape == (200, 2, 2)
    assert set(drawn[:, 1, 0].tolist()) == {0.0, 1.0, 2.0}
    assert 0.6 < drawn[..., 1].mean() < 0.8
    assert not drawn[drawn[..., 1] == 0].any()


def test_parity_that_is_not_a_number_is_refused(pairs: gate.Golden) -> None:
    """Comparisons with it are all false."""
    some = np.linspace(0, 1, len(pairs.pairs.label))
    with pytest.raises(ParityExceeded, match="No precision is left"):
        gate.check(gate.Parity(some, some * np.nan, some), pairs, gate.Tolerance(), precision="fp32")


def test_parity_on_pairs_that_score_alike_is_refused(pairs: gate.Golden) -> None:
    """They would prove a plan that ignores its inputs."""
    same = np.full(len(pairs.pairs.label), 0.3)
    with pytest.raises(ParityExceeded, match="name a catalogue"):
        gate.check(gate.Parity(same, same, same), pairs, gate.Tolerance(), precision="fp16")


def test_compare_uses_calibration_and_thresholds_of_the_release(release: Path, pairs: gate.Golden) -> None:
    """What products get is compared, not logits."""
    kind = top_level(pairs.catalog.products[0].category)
    assert isinstance(pairs.catalog.products[0], Product)
    manifest = msgspec.structs.replace(
        releases.read_manifest(release), thresholds={kind: 0.9}, threshold=0.2, calibration=Calibration(scale=3.0)
    )
    zeros = np.zeros(len(pairs.pairs.label), np.float32)
    parity = gate.compare(pairs, manifest, zeros, zeros + 0.5)
    assert parity.expected.tolist() == [0.5] * len(zeros)
    assert parity.found[0] == pytest.approx(1 / (1 + np.exp(-1.5)))
    assert set(parity.thresholds.tolist()) == {0.9, 0.2}


def test_load_without_a_plan_says_which_command_builds_it(release: Path, cuda: FakeCuda, tmp_path: Path) -> None:
    """For this GPU and folder; nothing is built."""
    manifest = releases.verify(release)
    place = Place(plans=tmp_path / "empty")
    with pytest.raises(PlanMissing) as caught:
        load_plan(release, manifest, place, None, cuda=cuda, trt=FakeTensorRT(cuda))
    assert f"streamer compile {release} --gpu 0 --plans {tmp_path / 'empty'}" in str(caught.value)
    assert "NVIDIA Fake 4" in str(caught.value)


def test_load_on_another_gpu_finds_no_plan(
    compile_here: Callable[..., plans.PlanRecord], release: Path, tmp_path: Path
) -> None:
    """It says what there is."""
    compile_here()
    other = FakeCuda(name="NVIDIA Other 5")
    with pytest.raises(PlanMissing, match=r"there are plans for .*nvidia-fake-4-sm89"):
        load_plan(release, releases.verify(release), Place(plans=tmp_path), None, cuda=other, trt=FakeTensorRT(other))


def test_summary_says_how_the_plan_was_proven(compile_here: Callable[..., plans.PlanRecord]) -> None:
    """In a table for people, and whole as JSON."""
    record = compile_here()
    table = report.summary(record)
    assert "24 pairs (drawn products, seed 0)" in str([list(column.cells) for column in table.columns])
    assert msgspec.json.decode(report.record_json(record), type=plans.PlanRecord) == record


def test_buckets_of_the_command_line_are_numbers() -> None:
    """Sorted, each once; anything else is said in the option's words."""
    assert cli.batch_sizes("8,1,8") == (1, 8)
    for wrong in ("", "1,x", "0,4"):
        with pytest.raises(EngineUnavailable, match="as in 1,8,32,64"):
            cli.batch_sizes(wrong)


def test_gpu_is_found_by_number_or_part_of_its_name() -> None:
    """What is not there names what is."""
    gpus = [FakeCuda(name="NVIDIA L4"), FakeCuda(name="NVIDIA A10G")]

    def opened(index: int) -> FakeCuda:
        if index >= len(gpus):
            raise EngineUnavailable(f"there is no GPU {index}")
        return gpus[index]

    assert cli.find_gpu("1", opened) is gpus[1]
    assert cli.find_gpu("a10", opened) is gpus[1]
    with pytest.raises(EngineUnavailable, match="no GPU here is called H100; there are NVIDIA L4, NVIDIA A10G"):
        cli.find_gpu("H100", opened)
    with pytest.raises(EngineUnavailable, match="--dry-run"):
        cli.find_gpu("sm89", opened)


def test_rehearsal_builds_every_precision_and_keeps_nothing(release: Path) -> None:
    """By TensorRT for RTX: real plans, thrown away."""
    rtx = pytest.importorskip("tensorrt_rtx")
    target = builder.Target(buckets=(1,), compute_capability=(8, 9))
    rows = list(run.rehearse(release, ["fp32", "fp16"], target, trt=rtx))
    assert [row.precision for row in rows] == ["fp32", "fp16"]
    assert rows[0].plan_bytes > rows[1].plan_bytes > 10_000
    assert "fp16" in report.rehearsal_json(rows)
    assert not (release / "plans").exists()


def test_plan_is_required_before_a_release_is_fetched(
    compile_here: Callable[..., plans.PlanRecord],
    release: Path,
    cuda: FakeCuda,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By its manifest alone, where plans have a folder of their own; whoever runs on a CPU needs none."""
    monkeypatch.setattr("engines.runtime.cuda.open_gpu", lambda _: cuda)
    monkeypatch.setattr("engines.runtime.tensorrt.load_backend", lambda: FakeTensorRT(cuda))
    manifest, place = releases.verify(release), Place(runtime="tensorrt", plans=tmp_path)
    require_plan(manifest, Place(runtime="cpu", plans=tmp_path))
    with pytest.raises(PlanMissing, match="streamer compile"):
        require_plan(manifest, place)
    compile_here()
    require_plan(manifest, place)
