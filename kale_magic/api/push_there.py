"""Values and files for a step whose own files are on a login host: they go up, and ``jupyter kale push`` there puts them in place."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kale_magic.api import mirror
from kale_magic.errors import ManagerUnavailable, UsageError
from kale_proxy import values

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kale_magic.api.find import Target
    from kale_magic.client import Client

BY = "by"
_LONGEST = 200


def push_there(client: Client, target: Target, given: Mapping[str, object], files: Mapping[str, str | Path], by: str) -> dict[str, Any]:
    """Return what ``jupyter kale push --json`` on the host prints: ``pushed``, ``edited``, ``stale``.

    Parameters
    ----------
    client : Client
        Of the host's manager.
    target : Target
        One job.
    given, files : mapping
        As of :func:`kale_magic.api.push.push`.
    by : str
        Who does it, and on which host; it goes along, in a file of the folder.

    Raises
    ------
    UsageError
        A value can't be saved, a file can't be read or brought there, or the host refuses it, in its words.
    """
    place = f"{client.status(target.run)['folder']}/pushed-{os.urandom(6).hex()}"
    words = ["push", str(target), "--staged", place, "--json"]
    with tempfile.TemporaryDirectory(prefix="kale-") as made:
        folder = Path(made)
        try:
            index = {name: values.save(name, value, folder) for name, value in given.items()}
        except values.ValueFileError as exc:
            raise UsageError(f"{target}: {exc}.") from exc
        (folder / values.INDEX).write_text(json.dumps(index), encoding="utf-8")
        (folder / BY).write_text(by, encoding="utf-8")
        going = {path.name: path for path in folder.iterdir()}
        for number, (name, source) in enumerate(files.items()):
            going[f"files/{number}"] = Path(source).expanduser()
            words.append(f"{name}={place}/files/{number}")
        mirror.upload(client, place, going)
    try:
        said = client.run_there(words)
        found: dict[str, Any] = json.loads(said[said.index("{") :])
    except ManagerUnavailable as exc:
        raise UsageError(str(exc)) from exc
    except ValueError as exc:
        raise UsageError(f"{client.host} said what is not understood: {said[-200:]!r}.") from exc
    return found


def pushed_by(folder: Path, here: str) -> str:
    """Return who put a folder of values and files on this host, for the record: ``ana@laptop via ana@login``.

    Parameters
    ----------
    folder : Path
        As :func:`push_there` brings it; one that says nobody, as an older Kale's, is of the person here.
    here : str
        This person and host.
    """
    try:
        with (folder / BY).open(encoding="utf-8", errors="replace") as stream:
            said = " ".join(stream.read(_LONGEST).split())
    except OSError:
        return here
    return f"{said} via {here}" if said and said.isprintable() else here
