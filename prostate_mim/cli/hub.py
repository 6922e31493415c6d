"""Commands about hubs: pull, and hub serve, push and token."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prostate_mim.cli import options
from prostate_mim.console import plain, show
from prostate_mim.errors import UsageError

app = typer.Typer(help="A hub of one's own, without internet: serve, push, token.", no_args_is_help=True)
_Shelf = Annotated[Path, typer.Argument(help="Folder of models: FOLDER/org/name, as 'pull' writes it.")]
_MB = 1_000_000


def pull(
    names: Annotated[list[str] | None, typer.Argument(help="Bundled names, folders, or org/name@revision.")] = None,
    to: Annotated[Path, typer.Option("--to", help="Folder to put models in, verified: TO/org/name.")] = Path("models"),
    every: Annotated[bool, typer.Option("--all", help="All published models that are here.")] = False,
    as_json: options.Json = False,
) -> None:
    """Put models into a folder that is carried to where no internet is; it loads, and 'hub serve' serves it."""
    from prostate_mim.hub import available_models
    from prostate_mim.hub.transfer import pull as pull_one

    if bool(names) is every:
        raise UsageError("name the models to pull, or give --all")
    found = []
    for name in names or available_models():
        one = pull_one(name, to)
        found.append(one)
        if not as_json:
            how = "was there" if one.was_there else f"{one.size_bytes / _MB:.1f} MB"
            typer.echo(f"{one.name}: {one.folder} ({one.revision}, {how})")
    if as_json:
        show({"models": [plain(one) for one in found]}, True)


@app.command("serve")
def serve(
    folder: _Shelf,
    host: Annotated[str, typer.Option(help="Address to listen at; beyond 127.0.0.1 others reach it.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8780,
    write: Annotated[bool, typer.Option("--write", help="Users with a token that may write do so.")] = False,
    max_upload_mb: Annotated[int, typer.Option(min=1, help="Of one request.")] = 1000,
    quiet: Annotated[bool, typer.Option("--quiet", help="No line a request on stderr.")] = False,
) -> None:
    """Serve a folder of models to huggingface_hub's own client, until Ctrl-C."""
    from prostate_mim.hub.serving import HubServer, Limits, Shelf

    shelf = Shelf(folder)
    limits = Limits(upload_bytes=max_upload_mb * _MB)
    log = None if quiet else lambda line: typer.echo(line, err=True)
    server = HubServer(shelf, host=host, port=port, writable=write, limits=limits, log=log)
    names = shelf.names()
    typer.echo(
        f"{len(names)} models at {server.url} ({'for reading and writing' if write else 'read only'}); Ctrl-C ends"
    )
    for name in names:
        typer.echo(f"  HF_ENDPOINT={server.url} prostate-mim info {name}@main")
    if host not in ("127.0.0.1", "::1", "localhost"):
        typer.echo(f"warning: whoever reaches {host} reads what is not private, unencrypted", err=True)
    server.serve()


@app.command("token")
def token(
    folder: _Shelf,
    name: Annotated[str, typer.Argument(help="Whom it is for; a new one takes the place of an old one.")],
    write: Annotated[bool, typer.Option("--write", help="May create repositories and commit.")] = False,
    as_json: options.Json = False,
) -> None:
    """Make a user's token; it is shown once, and kept as a hash."""
    from prostate_mim.hub.serving import Shelf, new_token

    made = new_token(Shelf(folder).root, name, may_write=write)
    show({"user": name, "may_write": write, "token": made}, as_json)


@app.command("push")
def push(
    model: Annotated[str, typer.Argument(help="Release or run folder, or a bundled name.")],
    name: Annotated[str, typer.Argument(help="org/name on the hub that HF_ENDPOINT names.")],
    private: Annotated[bool, typer.Option("--private", help="If it is made now.")] = False,
    tag: Annotated[str, typer.Option(help="To give the commit, such as v1.")] = "",
    as_json: options.Json = False,
) -> None:
    """Put a verified release on a hub, as one commit; the token is HF_TOKEN, or that of 'hf auth login'."""
    from prostate_mim.hub.transfer import push as push_one

    show(plain(push_one(model, name, private=private, tag=tag)), as_json)
