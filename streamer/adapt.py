"""`streamer adapt`, `streamer audit`: any feed → a folder → a survey of it → training, by a program of its own.

Training needs torch, which never enters this process: `python -m engines.build` is started as a child, shows its own
progress, and gets the signals that this process gets.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from engines.catalogs.collection import SURVEY_FOLDER, read_collection
from streamer.collect import CollectOptions, collect
from streamer.columns import Columns
from streamer.erasures import Erasures
from streamer.errors import FatalError
from streamer.pictures import writing
from streamer.purge import purge_if_possible
from streamer.terminal import CollectBar, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence
    from pathlib import Path

    from rich.console import Console

    from streamer.catalogs import Collected
    from streamer.settings import Settings

    Runner = Callable[[Coroutine[Any, Any, Collected]], Collected]

PROGRAM: Final = (sys.executable, "-m", "engines.build")
SURVEY_NEEDS: Final = ("jinja2", "matplotlib")
TRAINING_NEEDS: Final = ("torch", "onnx", "accelerate", *SURVEY_NEEDS)
FORWARDED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

MAX_TOKENS: Final = 64  # of a text that compact reads, unless `--max-tokens` says otherwise
COLLECTED_FOLDER: Final = "catalog"


@dataclass(frozen=True, kw_only=True)
class AdaptOptions:
    """What to adapt to or to audit, and where to; `passed` goes to the training program's `command` as it is.

    `work` holds the collected catalogue and the survey; a folder that `streamer collect` has finished is used where it
    stands, once erased products have been removed from it.
    """

    command: str
    catalog: Path
    out: Path
    work: Path
    base_url: str | None = None
    pictures: Path | None = None
    limit: int | None = None
    columns: Columns = field(default_factory=Columns)
    passed: Sequence[str] = ()


def adapt(
    options: AdaptOptions,
    settings: Settings,
    console: Console,
    run: Runner,
    *,
    program: Sequence[str] = PROGRAM,
    needs: Sequence[str] = TRAINING_NEEDS,
) -> int:
    """Collect, survey and train; return the exit code of training.

    Args:
        options: What to adapt to.
        settings: How pictures are fetched.
        console: Where progress is shown.
        run: Runs the collection in an event loop.
        program: The training program.
        needs: Packages without which nothing is begun.

    Raises:
        FatalError: train_not_installed, and as `collect.collect`.
        CatalogInvalid: the collected folder cannot be read.
        TransientError: as `collect.collect`.
    """
    require(needs, "train")
    folder = options.catalog
    if not _ready(folder, settings, console):
        folder = options.work / COLLECTED_FOLDER
        collect_folder(
            CollectOptions(
                feed=options.catalog,
                out=folder,
                base_url=options.base_url,
                pictures=options.pictures,
                limit=options.limit,
                columns=options.columns,
            ),
            settings,
            console,
            run,
        )
    show_survey(folder, options.work / SURVEY_FOLDER, console, max_tokens=max_tokens_of(options.passed))
    return train([*program, options.command, str(folder), "--out", str(options.out), *options.passed])


def _ready(folder: Path, settings: Settings, console: Console) -> bool:
    """Whether training may read a folder where it stands: collected to its end, and no erased product left in it."""
    if not folder.is_dir() or read_collection(folder) is None:
        return False
    standing = purge_if_possible(folder, Erasures(settings.labels.dataset).all())
    if standing.said:
        console.print(standing.said, soft_wrap=True, markup=False, highlight=False)
    return not standing.erased


def require(packages: Sequence[str], extra: str) -> None:
    """Say what to install when a package is missing.

    Raises:
        FatalError: train_not_installed, survey_not_installed, gpu_not_installed.
    """
    missing = [name for name in packages if not _installed(name)]
    if missing:
        code = f"{'survey' if extra == 'demo' else extra}_not_installed"
        raise FatalError(code, f"{', '.join(missing)} missing: pip install 'mismatch-streamer[{extra}]'")


def _installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # of what it is a part of
        return False


def collect_folder(options: CollectOptions, settings: Settings, console: Console, run: Runner) -> Collected:
    """Collect a feed with a progress bar, and print how it ended.

    Raises:
        FatalError: as `collect.collect`.
    """
    with CollectBar(console) as bar:
        done = run(collect(options, settings, bar))
    bar.summarize(done, options.out)
    return done


def show_survey(
    folder: Path, out: Path, console: Console, *, seed: int = 0, max_tokens: int | None = MAX_TOKENS
) -> None:
    """Write the survey of a folder, and print where it stands and what should be done.

    Args:
        folder: The catalogue.
        out: Where the survey goes.
        console: Where it is told.
        seed: Of what is drawn for a look.
        max_tokens: Tokens of a text that compact would read; None: another family will be trained.

    Raises:
        CatalogInvalid: the folder cannot be read.
        FatalError: out_unusable.
    """
    from engines.catalogs.survey import Reading, take_survey, write_page  # noqa: PLC0415 - packages of an extra
    from engines.catalogs.survey.notes import notes  # noqa: PLC0415 - as above
    from streamer.token_counts import compact_counter  # noqa: PLC0415 - as above

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    count = None if max_tokens is None else compact_counter()
    reading = None if count is None or max_tokens is None else Reading(count, max_tokens)
    with Progress(*columns, console=console) as progress, writing(out):
        survey = take_survey(folder, progress=progress, seed=seed, reading=reading)
        page = write_page(survey, folder, out)
    for note in notes(survey):
        if note.tone == "bad":
            console.print(f"[yellow]![/] {escape(printable(note.text))}", soft_wrap=True, highlight=False)
    console.print(f"survey: {page}", soft_wrap=True, markup=False)


def max_tokens_of(options: Sequence[str], default: int = MAX_TOKENS) -> int | None:
    """Return what `--max-tokens` says among the options of the training program; None: its family is not compact."""
    said = dict(pairwise(options))
    said |= {name: value for name, _, value in (option.partition("=") for option in options) if value}
    if said.get("--family", "compact") != "compact":
        return None
    given = said.get("--max-tokens", "")
    return int(given) if given.isdecimal() else default


def train(command: Sequence[str], variables: Mapping[str, str] | None = None) -> int:
    """Run the training program to its end and return its exit code, 128 + the signal when one ended it.

    It is a process group of its own, so that Ctrl-C reaches it once: from here, like any other signal.

    Args:
        command: the program and its arguments.
        variables: of its environment, where that does not set them already.

    Raises:
        FatalError: train_not_started.
    """
    child: subprocess.Popen[bytes] | None = None
    early: list[int] = []

    def forward(number: int, _: object) -> None:
        if child is None:
            early.append(number)
        else:
            child.send_signal(number)

    previous = {number: signal.signal(number, forward) for number in FORWARDED}
    try:
        child = subprocess.Popen(  # noqa: S603 - our own program
            command, stdin=subprocess.DEVNULL, process_group=0, env={**(variables or {}), **os.environ}
        )
        for number in early:
            child.send_signal(number)
        code = child.wait()
    except OSError as error:
        raise FatalError("train_not_started", f"{command[0]}: {error.strerror}") from error
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return 128 - code if code < 0 else code
