"""`frankenstream keys`: CURVE key pairs. Connections beyond this machine are refused without them."""

from __future__ import annotations

import shutil
from pathlib import Path

from cyclopts import App

from pipeline.bundle.home import home_folder
from pipeline.errors import ConfigError
from pipeline.transports.keys import load_public, write_pair

app = App(name="keys", help="Make and show the keys that encrypt connections.")


def keys_folder() -> Path:
    """Where keys are made unless another folder is named."""
    return home_folder() / "keys"


@app.command
def create(*, folder: Path | None = None) -> None:
    """Make a server's key pair. Start the server with `--keys FOLDER`, give each edge a copy of server.key.

    Parameters
    ----------
    folder:
        Where to put it; keys/ in the data folder if not given.
    """
    place = folder or keys_folder()
    write_pair(place, "server")
    (place / "clients").mkdir(exist_ok=True)
    print(f"{place}/server.key     public: copy it to every edge")
    print(f"{place}/server.secret  secret: keep it here")
    print(f"next: frankenstream keys admit NAME   (for each edge), then frankenstream serve --keys {place}")


@app.command
def admit(name: str, *, folder: Path | None = None, key: Path | None = None) -> None:
    """Let an edge in: makes a key pair for it, or takes the public key that it made.

    Parameters
    ----------
    name:
        Name of the edge.
    folder:
        The server's key folder.
    key:
        The edge's own NAME.key; without it a pair is made here, to be carried to the edge.
    """
    place = folder or keys_folder()
    if not (place / "server.key").exists():
        raise ConfigError(f"{place} has no server.key: run `frankenstream keys create` first")
    clients = place / "clients"
    target = clients / f"{name}.key"
    if key is not None:
        load_public(key)
        if target.exists():
            raise ConfigError(f"{target} exists: remove it first if it is to be replaced")
        clients.mkdir(exist_ok=True)
        shutil.copyfile(key, target)
        print(f"{name} may connect after the server's next start")
        return
    bag = place / f"edge-{name}"
    write_pair(bag, "edge")
    clients.mkdir(exist_ok=True)
    shutil.copyfile(bag / "edge.key", target)
    shutil.copyfile(place / "server.key", bag / "server.key")
    print(f"{bag}  carry this folder to {name} and start it with --keys FOLDER; then remove edge.secret here")


@app.command
def show(*, folder: Path | None = None) -> None:
    """List who may connect.

    Parameters
    ----------
    folder:
        The server's key folder; keys/ in the data folder if not given.
    """
    place = folder or keys_folder()
    print(f"server  {load_public(place / 'server.key').decode()}")
    for path in sorted((place / "clients").glob("*.key")):
        print(f"{path.stem}  {load_public(path).decode()}")
