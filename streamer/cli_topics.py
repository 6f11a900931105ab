"""`streamer topics`: the topics of the stream."""

# No `from __future__ import annotations`: typer reads the annotations.
from typing import Annotated

import typer

from streamer import command
from streamer.command import Bootstrap

topics_app = typer.Typer(no_args_is_help=True, help="Create and list the topics of the stream.")


@topics_app.command("create")
def topics_create(
    partitions: Annotated[int | None, typer.Option(min=1, help="Of each topic but engine-releases.")] = None,
    replication: Annotated[int | None, typer.Option(min=1, help="Copies of each partition.")] = None,
    bootstrap: Bootstrap = None,
) -> None:
    """Create the topics that do not exist; those that do are compared and left as they are.

    Updates, scores and a challenger's scores are kept 7 days; alerts, dead letters, review requests and labels 30 days;
    alerts that workers are to decide anew 1 day; announced releases for ever. Partitions are the most workers that can
    share the work.

    Example: `streamer topics create --partitions 24 --replication 3`

    Settings: STREAMER_TOPICS__… (names, counts) and STREAMER_BROKER__…; the options here win.
    """
    from streamer import topics  # noqa: PLC0415

    settings = command.settings(bootstrap=bootstrap, partitions=partitions, replication=replication)
    done = command.run(topics.create(settings.broker, topics.specs(settings.topics)))
    console = command.console()
    for name in done.created:
        console.print(f"[green]created[/] {name}")
    for name in done.existing:
        console.print(f"exists  {name}")
    for note in done.notes:
        console.print(f"[yellow]note[/]    {note}", soft_wrap=True)


@topics_app.command("list")
def topics_list(bootstrap: Bootstrap = None) -> None:
    """List the topics of the stream as the broker has them.

    Example: `streamer topics list --bootstrap kafka:9092`

    Settings: STREAMER_TOPICS__… (names) and STREAMER_BROKER__….
    """
    from streamer import terminal, topics  # noqa: PLC0415

    settings = command.settings(bootstrap=bootstrap)

    async def existing() -> dict[str, topics.TopicState]:
        async with topics.admin(settings.broker) as client:
            return await topics.describe(client)

    command.console().print(terminal.topics_table(topics.specs(settings.topics), command.run(existing())))
