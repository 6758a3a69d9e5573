"""Commands on stores of completions: copy, compact. Parsing only, as cli.py."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cotdistill.errors import ConfigError

if TYPE_CHECKING:
    from cotdistill.parts import Parts
    from cotdistill.store import Store

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Copy and compact stores of completions.")


@app.command("copy")
def copy_command(
    source: Annotated[str, typer.Argument(metavar="FROM", help="A store: a .sqlite file, a folder or URL of parts.")],
    target: Annotated[str, typer.Argument(metavar="TO", help="Another one; made where there is none.")],
    shards: Annotated[int, typer.Option(min=0, help="Of a new store of parts. 0: 256.")] = 0,
) -> None:
    """Bring the completions of one store into another, each once.

    Prints how many were new. Killed and run again, it goes on.
    """
    from cotdistill.objects import without_secrets
    from cotdistill.parts import SHARDS, Parts, copy

    with opened(source) as there, opened(target, shards or SHARDS) as here:
        if shards and isinstance(here, Parts) and here.shards != shards:
            raise ConfigError(f"--shards {shards}: {target} has {here.shards}, and keeps them. Leave it out.")
        found = copy(there, here)
    typer.echo(f"{found:,} completions of {without_secrets(source)} are new in {without_secrets(target)}")


@app.command("compact")
def compact_command(url: Annotated[str, typer.Argument(help="A folder or URL of parts.")]) -> None:
    """Put the many small parts of each shard into one; runs that use the store may go on meanwhile."""
    from cotdistill.parts import Parts

    parts = Parts(url, shards=0)
    merged = [parts.compact(shard) for shard in range(parts.shards)]
    typer.echo(f"{sum(merged):,} parts are {sum(map(bool, merged)):,} now, in {parts.shards:,} shards of {parts.url}")


@contextmanager
def opened(place: str, shards: int = 0) -> Iterator[Store | Parts]:
    """A store by its place: a file is SQLite's, a folder or a URL holds parts. `shards`: it may be made, of so many."""
    from cotdistill.parts import Parts
    from cotdistill.store import Store

    path = Path(place)
    if "://" in place or (path.suffix != ".sqlite" and not path.is_file()):
        yield Parts(place, shards)
    else:
        with Store(path, read_only=not shards) as store:
            yield store
