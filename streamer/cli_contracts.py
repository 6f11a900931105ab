"""`streamer contracts`."""

import typer


def contracts() -> None:
    """Print what stands in the topics as an AsyncAPI 3 document (JSON), for catalogues of APIs and code generators.

    Topics have their default names in it.

    Example: `streamer contracts > asyncapi.json`

    Settings: none play a part.
    """
    import orjson  # noqa: PLC0415

    from streamer.contracts import document  # noqa: PLC0415

    typer.echo(orjson.dumps(document(), option=orjson.OPT_INDENT_2).decode())
