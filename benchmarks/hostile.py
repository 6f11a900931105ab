"""What strangers may send, tried on the parts that meet it: how many cases of each class, and what each got.

    python benchmarks/hostile.py                                  the cases that are built here, from a seed
    python benchmarks/hostile.py --pictures DIR --json DIR        and every file of these folders
    python benchmarks/hostile.py --only-files DIR...              JSON where its name says so, else a picture

`hostile_corpus.py` makes such folders. Pictures go through the decoders of a worker, events through parsing, ordering,
text and tokenising, addresses through a fetcher that has no host allowed. Exit code 1 when a case got something else
than it may, when one took longer than two seconds by the clock, whatever it got, when a decoder crashed, or when this
process has grown by 50 MB. Beside the clock stands the CPU time that a case took, decoders included: where the machine
does other work a case waits, too.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import structlog
import typer
from cpu_time import cpu_s, descendants
from hostile_addresses import REFUSED, addresses, urls
from hostile_cases import OK, Case
from hostile_events import records
from hostile_pictures import encoded, noise, pictures
from rich.console import Console
from rich.progress import track
from rich.table import Table

from engines.errors import EngineError
from engines.runtime import loader
from engines.text import compose
from streamer.addresses import refuse
from streamer.decoding import BlockingDecoders, DecoderPool
from streamer.errors import RejectedEvent, StreamerError
from streamer.events import PRODUCT_UPDATES
from streamer.fetch import Fetcher
from streamer.incoming import Incoming, dead_letter, letter_record
from streamer.settings import FetchSettings, PipelineSettings
from streamer.topics import MAX_DEAD_LETTER_BYTES
from streamer.updates import parse_update, text_digest
from streamer.wire import SourcePosition, claimed_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from ipaddress import IPv4Address, IPv6Address

    from hostile_events import Record

    from engines.contract import Manifest
    from engines.text import Tokenizer

HANG_S = 2.0
GROWTH_MB = 50.0
MAX_FILE_BYTES = 20 * 2**20
LINES = {".jsonl", ".ndjson"}
JSON_NAMES = {".json", ".geojson", *LINES}
ANY_PICTURE = frozenset(
    {OK, "image_unsupported", "image_too_large", "image_truncated", "image_malformed", "image_decode_timeout"}
)
ANY_EVENT = frozenset(
    {OK, "malformed_json", "malformed_event", "schema_unsupported", "version_missing", "text_empty", "key_missing"}
)


@dataclass
class Tried:
    """What the cases of one class got."""

    outcomes: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    most_cpu_s: float = 0.0
    wrong: list[str] = field(default_factory=list)
    hangs: list[str] = field(default_factory=list)


class Trial:
    """Tries cases and keeps what they got, by class."""

    def __init__(self) -> None:
        self.classes: dict[str, Tried] = defaultdict(Tried)

    def note(self, subject: str, case: Case[Any], outcome: str, seconds: float, cpu_s: float) -> None:
        """Keep what a case got, and what it took by the clock and of the CPU."""
        tried = self.classes[f"{subject}: {case.kind}"]
        tried.outcomes[outcome] += 1
        tried.slowest_s = max(tried.slowest_s, seconds)
        if outcome not in case.wanted:
            tried.wrong.append(f"{case.name}: {outcome}")
        tried.most_cpu_s = max(tried.most_cpu_s, cpu_s)
        if seconds > HANG_S:
            tried.hangs.append(f"{case.name}: {outcome} after {seconds:.1f} s, {cpu_s:.1f} s of CPU")

    def run(self, subject: str, case: Case[Any], work: Callable[[Any], object]) -> None:
        """Try a case; whatever is no rejection of ours is a crash."""
        started, cpu_started_s = time.perf_counter(), all_cpu_s()
        try:
            work(case.given)
            outcome = OK
        except (StreamerError, EngineError) as error:
            outcome = error.code
        except Exception as error:  # noqa: BLE001 - it is counted
            outcome = f"crash: {type(error).__name__}"
        self.note(subject, case, outcome, time.perf_counter() - started, all_cpu_s() - cpu_started_s)


def all_cpu_s() -> float:
    """Return the CPU time of this process and of the decoders below it."""
    return time.process_time() + cpu_s(descendants())


def score_event(record: Record, manifest: Manifest, tokenizer: Tokenizer) -> None:
    """Take a record as far as the pipeline does before it fetches, or to a dead letter that fits its topic."""
    try:
        read_event(record, manifest, tokenizer)
    except (StreamerError, EngineError) as error:
        check_letter(record, error)
        raise


def check_letter(record: Record, error: StreamerError | EngineError) -> None:
    """See that the dead letter fits its topic: one that does not would stop the worker."""
    position = SourcePosition(topic=PRODUCT_UPDATES, partition=0, offset=0)
    incoming = Incoming(*record, [], position, claimed_time(0), lambda: None)
    key, value = letter_record(incoming, dead_letter(incoming, error))
    assert len(key or b"") + len(value) < MAX_DEAD_LETTER_BYTES


def read_event(record: Record, manifest: Manifest, tokenizer: Tokenizer) -> None:
    """Read all of a record that an engine reads."""
    update = parse_update(*record)
    if update.deleted and update.version is None and update.updated_at is None:
        return
    _ = update.order, update.category
    text = compose(update.text_fields(), manifest.text)
    text_digest(text)
    tokenizer.encode([text])


def refuse_address(address: IPv4Address | IPv6Address) -> None:
    """Judge an address as a connection to it is judged."""
    reason = refuse(address)
    if reason is not None:
        raise RejectedEvent(REFUSED, reason)


async def try_urls(trial: Trial) -> None:
    """Ask for every URL as a worker does; none may be connected to."""
    async with Fetcher(FetchSettings(attempts=1, timeout_s=1.5)) as fetcher:

        async def fetch(case: Case[str]) -> None:
            started, cpu_started_s = time.perf_counter(), time.process_time()
            try:
                await fetcher.get(case.given)
                outcome = OK
            except StreamerError as error:
                outcome = error.code
            except Exception as error:  # noqa: BLE001 - it is counted
                outcome = f"crash: {type(error).__name__}"
            trial.note("URL", case, outcome, time.perf_counter() - started, time.process_time() - cpu_started_s)

        for case in urls():
            await fetch(case)


def files_of(folder: Path, what: str | None = None) -> Iterator[tuple[str, Case[Any]]]:
    """Yield every file below the folder: as `what` says, "event" or "picture"; else as its name says.

    A file of lines (.jsonl, .ndjson) is one event a line.
    """
    kind = f"files of {folder.name}"
    for name in track(names_in(folder), kind, console=Console(stderr=True), transient=True):
        data = head_of(folder / name)
        ending = Path(name).suffix.lower()
        if what == "picture" or (what is None and ending not in JSON_NAMES):
            yield "picture", Case(kind, name, data, ANY_PICTURE)
        elif ending in LINES:
            for number, line in enumerate(data.splitlines(), 1):
                yield "event", Case(kind, f"{name}:{number}", (b"p", line), ANY_EVENT)
        else:
            yield "event", Case(kind, name, (b"p", data), ANY_EVENT)


def names_in(folder: Path) -> list[str]:
    """Return the files below the folder, in order; names and no paths, which would weigh a kilobyte each."""
    return sorted(os.path.relpath(Path(root, name), folder) for root, _, names in os.walk(folder) for name in names)


def head_of(path: Path) -> bytes:
    """Return the file's bytes, up to the limit; room for all of that is taken for large files only."""
    with path.open("rb") as file:
        return file.read(MAX_FILE_BYTES) if path.stat().st_size > MAX_FILE_BYTES else file.read()


def resident_mb() -> float:
    """Return the memory that this process holds."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096 / 2**20


Folders = list[Path] | None


def main(
    folders: Annotated[Folders, typer.Argument(exists=True, file_okay=False, metavar="DIR...")] = None,
    as_pictures: Annotated[
        Folders, typer.Option("--pictures", exists=True, file_okay=False, help="Each file is tried as a picture.")
    ] = None,
    as_events: Annotated[
        Folders, typer.Option("--json", exists=True, file_okay=False, help="Each file is tried as an event.")
    ] = None,
    seed: int = 1,
    only_files: Annotated[bool, typer.Option("--only-files", help="Leave out the cases that are built here.")] = False,
) -> None:
    """Try every case; print what each class got and, last, one JSON object."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    engine = loader.load(threads=1)
    manifest, tokenizer = engine.manifest, loader.load_tokenizer()
    engine.close()
    limits = PipelineSettings()
    trial = Trial()
    pool = DecoderPool(
        manifest.image,
        size=limits.decoders,
        max_bytes=MAX_FILE_BYTES,
        max_pixels=limits.max_pixels,
        memory_bytes=limits.decode_memory_mib * 2**20,
        cpu_s=limits.decode_cpu_s,
    )
    with BlockingDecoders(pool) as decoders:

        def event(record: Record) -> None:
            score_event(record, manifest, tokenizer)

        for warm_up in range(20):
            decoders.decode(encoded(noise(64, 64, warm_up), "PNG"))
        for given in list(records(seed))[:200]:
            Trial().run("event", given, event)
        before_mb = resident_mb()
        if not only_files:
            for picture in pictures(seed):
                trial.run("picture", picture, decoders.decode)
            for record in records(seed):
                trial.run("event", record, event)
            for address in addresses():
                trial.run("address", address, refuse_address)
            asyncio.run(try_urls(trial))
        for what, these in ((None, folders), ("picture", as_pictures), ("event", as_events)):
            for subject, file in (one for folder in these or () for one in files_of(folder, what)):
                trial.run(subject, file, decoders.decode if subject == "picture" else event)
        growth_mb = resident_mb() - before_mb
    report(trial, growth_mb)


def report(trial: Trial, growth_mb: float) -> None:
    """Print the table and the summary; exit with 1 when anything is not as it must be."""
    table = Table("class", "cases", "slowest, s", "most CPU, s", "what they got", "wrong")
    for name, tried in trial.classes.items():
        got = ", ".join(f"{outcome} {count}" for outcome, count in tried.outcomes.most_common())
        wrong = "\n".join([*tried.wrong[:5], *tried.hangs[:5]])
        figures = (str(tried.outcomes.total()), f"{tried.slowest_s:.2f}", f"{tried.most_cpu_s:.2f}")
        table.add_row(name, *figures, got, wrong)
    Console(stderr=True, width=160).print(table)
    classes = trial.classes.values()
    crashes = sum(
        count
        for tried in classes
        for outcome, count in tried.outcomes.items()
        if outcome.startswith("crash") or outcome == "image_decoder_crashed"
    )
    summary = {
        "cases": sum(tried.outcomes.total() for tried in classes),
        "wrong": sum(len(tried.wrong) for tried in classes),
        "crashes": crashes,
        "hangs": sum(len(tried.hangs) for tried in classes),
        "slowest_s": round(max(tried.slowest_s for tried in classes), 2),
        "most_cpu_s": round(max(tried.most_cpu_s for tried in classes), 2),
        "growth_mb": round(growth_mb, 1),
    }
    print(json.dumps(summary))
    bad = summary["wrong"] or crashes or summary["hangs"] or growth_mb >= GROWTH_MB
    raise typer.Exit(1 if bad else 0)


if __name__ == "__main__":
    typer.run(main)
