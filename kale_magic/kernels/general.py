"""The general kernelspecs, ``kale-local`` and those that come: where they are kept, how they are installed, which there are.

Their ``kernel.json`` says in ``metadata.kale.does`` what they are. The wheel installs them too; here they are put where a
person wants them, with this very interpreter in their command.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from kale_magic.errors import UsageError
from kale_magic.kernels import first
from kale_magic.kernels.specs import kernels_folder


@dataclass(frozen=True, kw_only=True, slots=True)
class General:
    """One installed general kernelspec: its name, its folder, and in a few words what it does."""

    name: str
    path: Path
    does: str

    @classmethod
    def read(cls, folder: Path) -> General | None:
        """Return the kernelspec in a folder; None if it is none of these."""
        try:
            does = json.loads((folder / "kernel.json").read_bytes())["metadata"]["kale"]["does"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return cls(name=folder.name, path=folder, does=str(does))


def install(prefix: str | Path | None = None) -> list[General]:
    """Put the general kernelspecs into the user's Jupyter folder, or below ``prefix``; return what is there then.

    Raises
    ------
    UsageError
        The folder can't be written, or another program's kernelspec has such a name.
    """
    made = []
    for source in shipped():
        path = kernels_folder(prefix) / source.name
        if path.exists() and General.read(path) is None:
            raise UsageError(f"{path} is there already and is not Kale's.", "Move it away, or give another --prefix.")
        spec: dict[str, Any] = json.loads((source / "kernel.json").read_bytes())
        spec["argv"] = [*first.command(), *spec["argv"][3:]]  # that of the wheel is python -m kale_magic.kernels
        if home := os.environ.get("KALE_HOME"):
            spec["env"] = {"KALE_HOME": os.path.abspath(home)}
        try:
            path.mkdir(parents=True, exist_ok=True)
            for file in sorted(source.iterdir()):
                if file.name != "kernel.json":
                    shutil.copyfile(file, path / file.name)
            temporary = path / f"kernel.json.{os.getpid()}"
            temporary.write_text(json.dumps(spec, indent=1) + "\n", encoding="utf-8")
            temporary.replace(path / "kernel.json")
        except OSError as exc:
            raise UsageError(f"The kernels can't be installed in {path.parent}: {exc.strerror}.", "Give another --prefix.") from exc
        made.append(General(name=source.name, path=path, does=spec["metadata"]["kale"]["does"]))
    return made


def installed(prefix: str | Path | None = None) -> list[General]:
    """Return the general kernelspecs that Jupyter finds, or those below ``prefix``, by name; of a name the first that it finds."""
    if prefix is not None:
        folders = [kernels_folder(prefix)]
    else:
        from jupyter_client.kernelspec import KernelSpecManager

        folders = [Path(path) for path in KernelSpecManager().kernel_dirs]
    found: dict[str, General] = {}
    for folder in folders:
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            general = General.read(path)
            if general is not None:
                found.setdefault(general.name, general)
    return [found[name] for name in sorted(found)]


def shipped() -> list[Path]:
    """Return the folders that come with Kale: in the package as installed, beside it in a checkout."""
    package = Path(str(resources.files("kale_magic")))
    for home in (package / "kernelspecs", package.parent / "kernelspecs"):
        if home.is_dir():
            return sorted(path for path in home.iterdir() if (path / "kernel.json").is_file())
    return []
