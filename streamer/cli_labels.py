"""`streamer labels`: the label worker, what it has recorded, and how a product is erased, and restored."""

# No `from __future__ import annotations`: typer reads the annotations.
import json as jsonlib
from typing import TYPE_CHECKING, Annotated

import typer

from streamer import command
from streamer.command import Bootstrap, Dataset
from streamer.errors import FatalError

if TYPE_CHECKING:
    from streamer.dataset import LabelDataset
    from streamer.settings import Settings

labels_app = typer.Typer(rich_markup_mode="markdown")

Product = Annotated[str, typer.Argument(metavar="PRODUCT", help="Its id.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@labels_app.callback(invoke_without_command=True)
def labels(context: typer.Context, dataset: Dataset = None, bootstrap: Bootstrap = None) -> None:
    """Run a label worker until SIGTERM: confirmed labels in, rows of the label data set out.

    Review tools write to the topic confirmed-labels (see `streamer/reviews.py` for the contract); Label Studio may post
    its webhooks instead, with STREAMER_LABELS__WEBHOOK_PORT and …SECRET. Each verdict is joined with what was scored,
    which scorers keep where STREAMER_EVIDENCE__STORE says: set it alike for both. A label whose item is not kept goes
    to dead-letters as `item_unknown`, one whose record is not keyed by its product as `key_mismatch`, one that is
    dated ahead as `labeled_in_future`, one on a product that was erased as `product_erased`.

    Needs delta-rs: `pip install 'mismatch-streamer[labels]'`.

    Example: `streamer labels --dataset s3://shop/labels`

    Settings: STREAMER_LABELS__…, STREAMER_EVIDENCE__STORE, STREAMER_TOPICS__… and STREAMER_BROKER__….
    """
    if context.invoked_subcommand is not None:
        return
    settings = command.settings(bootstrap=bootstrap, dataset=dataset)
    _needed()
    from streamer.labeler import run  # noqa: PLC0415

    raise typer.Exit(run(settings))


@labels_app.command("erase")
def erase(
    product: Product,
    *,
    everywhere: Annotated[
        bool,
        typer.Option("--everywhere", help="Delete it in product-updates first: scorers forget it, and its open alert."),
    ] = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Erase a product: its evidence, its verdicts and their older versions, and pictures that no other product shows.

    A record without a value in confirmed-labels says so; the label worker carries it out behind the labels that it has
    by then. It first puts the product on the list of erased ones, by a digest: while it stands there no label on it is
    recorded, `streamer collect` and `adapt` leave it out, and `streamer retrain` does not learn from it and removes it
    from its catalogue folder. `streamer labels restore` takes it off the list.

    What scorers keep of it again, since they are behind or it stays in the catalogue, label workers erase at their
    start and every ten minutes. A product that stays in the catalogue is scored on, and alerts: delete it there, and
    with --everywhere in product-updates, too. Without, scorers go on with it as they did: what is erased is what people
    said of it, and what was kept for them. What Kafka's topics hold goes when their retention ends. What weights have
    learned stays in them until an engine is adapted anew. SECURITY.md lists every place that knows a product.

    Example: `streamer labels erase mug-blue --everywhere`

    Settings: STREAMER_TOPICS__LABELS, STREAMER_TOPICS__UPDATES and STREAMER_BROKER__….
    """
    from streamer import topics  # noqa: PLC0415
    from streamer.outbox import producer  # noqa: PLC0415
    from streamer.reviews import erased_product  # noqa: PLC0415

    settings = command.settings(bootstrap=bootstrap)
    key = product.encode()
    erased_product(key)
    # The deletion first: a scorer that still knew the product would keep evidence behind the erasure.
    names = [*([settings.topics.updates] if everywhere else []), settings.topics.labels]

    async def ask() -> None:
        async with topics.admin(settings.broker) as client:
            existing = await topics.describe(client)
        missing = [name for name in names if name not in existing]
        if missing:
            raise FatalError("topics_missing", f"no {', '.join(missing)} on the broker: run `streamer topics create`")
        async with producer(settings.broker) as kafka:
            for name in names:
                await kafka.send_and_wait(name, None, key=key)

    command.run(ask())
    if everywhere:
        command.console().print(f"[green]deleted[/] in {settings.topics.updates}", soft_wrap=True)
    command.console().print(
        "[green]asked[/] the label worker to erase it; its log says `product.erased` when it is done", soft_wrap=True
    )


@labels_app.command("restore")
def restore(product: Product, *, dataset: Dataset = None) -> None:
    """Take a product off the list of erased ones: what is said of it from now on is recorded and learned again.

    Nothing that was erased comes back. Labels that came meanwhile stand in dead-letters as `product_erased`: `streamer
    dead-letters replay` brings back those that are about what was scored since.

    Example: `streamer labels restore mug-blue --dataset s3://shop/labels`

    Settings: STREAMER_LABELS__DATASET.
    """
    from streamer.erasures import Erasures  # noqa: PLC0415

    stood = Erasures(command.settings(dataset=dataset).labels.dataset).remove(product)
    command.console().print("[green]restored[/]" if stood else "it is not on the list: nothing to do", soft_wrap=True)


@labels_app.command("stats")
def stats(*, dataset: Dataset = None, json: Json = False) -> None:
    """Count the items and verdicts of the data set, and say how far people agree.

    Example: `streamer labels stats --dataset s3://shop/labels`

    Settings: STREAMER_LABELS__DATASET.
    """
    from streamer.labels import agreement  # noqa: PLC0415

    kept = _open(command.settings(dataset=dataset))
    found = agreement(kept.verdicts())
    if json:
        facts = {
            "version": kept.version,
            "items": found.items,
            "verdicts": found.votes,
            "consensus": dict(found.by_consensus),
            "judged_by_several": found.shared,
            "observed_agreement": found.observed,
        }
        typer.echo(jsonlib.dumps(facts))
        return
    console = command.console()
    console.print(f"version {kept.version}: {found.votes:,} verdicts on {found.items:,} items")
    for name, count in found.by_consensus.most_common():
        console.print(f"  {count:,} {name}")
    if found.observed is not None:
        console.print(
            f"{found.shared:,} items were judged by several people; {found.observed:.1%} of their pairs agree",
            soft_wrap=True,
        )


def _needed() -> None:
    from importlib.util import find_spec  # noqa: PLC0415

    if find_spec("deltalake") is None or find_spec("pyarrow") is None:
        raise FatalError("labels_not_installed", "the label data set needs: pip install 'mismatch-streamer[labels]'")


def _open(settings: "Settings") -> "LabelDataset":
    _needed()
    from streamer.dataset import LabelDataset  # noqa: PLC0415

    return LabelDataset(settings.labels.dataset)
