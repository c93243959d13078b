"""``pocketvlm serve``: OpenAI's API over a bundle, on this machine."""

from __future__ import annotations

from pathlib import Path

import click

from pocketvlm.cli.console import engine_option, finite, prefix_cache, prepacked_cache, running
from pocketvlm.cli.options import below, headed
from pocketvlm.errors import one_line

asked = below("Who may ask, and how much")


@headed("serve")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
@click.option(
    "--images",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Requests may name images below this directory; otherwise they send them.",
)
@click.option(
    "--allow-remote-images",
    multiple=True,
    metavar="HOST",
    help="Requests may name images at http(s) URLs on this host: its exact name, with :PORT where it is another; given "
    "several times, several hosts. Otherwise nothing is fetched.",
)
@asked(
    "--api-key",
    envvar="POCKETVLM_API_KEY",
    metavar="KEY",
    help="Requests need it; so does any --host but this machine's own. Better by POCKETVLM_API_KEY, which no list of "
    "processes shows.",
)
@asked("--queue", default=8, show_default=True, type=click.IntRange(0, 1000), help="Requests that may wait.")
@asked(
    "--max-body-mb",
    default=32.0,
    show_default=True,
    type=click.FloatRange(0, 1024, min_open=True),
    callback=finite,
    metavar="MB",
    help="Largest request.",
)
@asked(
    "--kept",
    default=2,
    show_default=True,
    type=click.IntRange(1, 64),
    metavar="N",
    help="KV caches: so many conversations go on without their beginning being computed again.",
)
@running("--threads", type=click.IntRange(1, 1024), help="Default: the physical cores.")
@prepacked_cache
@prefix_cache
@running("--tuning", type=click.Path(path_type=Path), metavar="FILE", help="Settings of pocketvlm bench --autotune.")
@running("--free-vision", is_flag=True, help="Have the vision part in memory only while an image is encoded.")
@engine_option
def command(
    *,
    bundle: Path,
    host: str,
    port: int,
    images: Path | None,
    allow_remote_images: tuple[str, ...],
    api_key: str | None,
    queue: int,
    max_body_mb: float,
    kept: int,
    threads: int | None,
    prepacked_cache: Path | None,
    prefix_cache: Path | None,
    tuning: Path | None,
    free_vision: bool,
    engine: str | None,
) -> None:
    """Answer OpenAI's API, on this machine. Ctrl-C ends it.

    pocketvlm serve dist/android/reader-gptq-g32 --images pictures
    """
    from pocketvlm.runtime import load
    from pocketvlm.serve.remote import remote_host
    from pocketvlm.serve.server import ServeOptions, serve

    if api_key is not None and not (api_key.isascii() and api_key.isprintable() and api_key.strip()):
        raise click.UsageError("--api-key must be of printable ASCII characters, and not empty")
    body_bytes = int(max_body_mb * 1e6)
    try:
        remote = frozenset(map(remote_host, allow_remote_images))
    except ValueError as error:
        raise click.UsageError(f"--allow-remote-images: {error}") from None
    options = ServeOptions(host, port, api_key and api_key.strip(), images, queue, kept, body_bytes, remote)
    with load(
        bundle,
        threads=threads,
        engine=engine,
        keep_vision=not free_vision,
        prepacked_cache=prepacked_cache,
        tuning=tuning,
    ) as vlm:
        if (limits := vlm.manifest.model.limits) is not None:
            click.echo(f"note: {one_line(limits, 500)}", err=True)
        if prefix_cache is not None:
            vlm.keep_prefixes(prefix_cache)
        name = vlm.manifest.model.name
        serve(vlm, options, lambda url: click.echo(f"serving {name} at {url} (Ctrl-C ends it)", err=True))
