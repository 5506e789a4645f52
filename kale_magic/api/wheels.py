"""The wheels that an environment on another host is made of: Kale's own, of the very code that runs here, and what it needs.

Kale's wheel is written from its files, so no build tool and no network is needed for it, and the same code gives the same
bytes. The others are downloaded by pip for the other host's Python, once, into a cache in the state folder.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING

import kale_proxy
from kale_magic import version
from kale_magic.errors import UsageError
from kale_proxy.places import private_dir

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from packaging.requirements import Requirement

_OURS = tuple(Path(str(module.__file__)).resolve().parent for module in (version, kale_proxy))
_PIP_S = 1800.0
_OLDEST_MINOR = 5  # manylinux_2_5 is the first there is
_ZIP_EPOCH = (2020, 2, 2, 0, 0, 0)
_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(\[[A-Za-z0-9._, -]*\])? *([<>=!~][^;@/\\]*)?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Platform:
    """What decides which wheels a Python can take: ``python`` its version, ``machine`` as of uname, ``glibc`` its version."""

    python: tuple[int, int, int]
    machine: str
    glibc: tuple[int, int]
    abiflags: str = ""

    @property
    def abi(self) -> str:
        """The interpreter's tag, such as ``cp311``."""
        return f"cp{self.python[0]}{self.python[1]}{self.abiflags}"

    def __str__(self) -> str:
        """Return a name for a folder."""
        return f"{self.abi}-{self.machine}-glibc{self.glibc[0]}.{self.glibc[1]}"

    def options(self) -> list[str]:
        """Return pip's options for it."""
        major, newest = self.glibc
        tags = [f"manylinux_{major}_{minor}_{self.machine}" for minor in range(newest, _OLDEST_MINOR - 1, -1)]
        tags += [f"manylinux2014_{self.machine}", f"manylinux2010_{self.machine}", f"manylinux1_{self.machine}", f"linux_{self.machine}"]
        version = ".".join(map(str, self.python))
        return ["--python-version", version, "--implementation", "cp", "--abi", self.abi, *(word for tag in tags for word in ("--platform", tag))]

    def marker_values(self) -> dict[str, str]:
        """Return what markers of requirements are compared with (PEP 508)."""
        version = ".".join(map(str, self.python))
        return {
            "python_version": f"{self.python[0]}.{self.python[1]}", "python_full_version": version, "implementation_version": version,
            "platform_machine": self.machine, "sys_platform": "linux", "platform_system": "Linux", "os_name": "posix",
            "platform_python_implementation": "CPython", "implementation_name": "cpython", "extra": "",
        }  # fmt: skip


def check_requirements(requirements: Sequence[str]) -> None:
    """Refuse what is no name of a package with a version or without; raises UsageError."""
    for text in requirements:
        if not _REQUIREMENT.fullmatch(text):
            raise UsageError(f"{text!r} is no package that can be brought along.", "Name packages such as numpy or 'scipy>=1.14'.")


def bundle(platform: Platform, requirements: Sequence[str], cache: Path) -> list[Path]:
    """Return the wheels for an environment: Kale's, pip's, what they and ``requirements`` need, in the order of their names.

    Raises
    ------
    UsageError
        A package can't be had, or has no wheel for that Python; or there is no pip here.
    """
    folder = private_dir(private_dir(cache) / str(platform))
    own = write_own(folder)
    wanted = [*_needs(own), *requirements]
    record = folder / f"set-{hashlib.sha256(json.dumps([wanted, str(platform)]).encode()).hexdigest()[:16]}.json"
    try:
        names = [str(name) for name in json.loads(record.read_bytes())]
    except (OSError, ValueError):
        names = []
    if not names or not all((folder / name).is_file() for name in names):
        names = _download(platform, [str(own), "pip", *requirements], folder)
        temporary = record.with_name(f"{record.name}.{os.getpid()}")
        temporary.write_text(json.dumps([name for name in names if name != own.name]))
        temporary.replace(record)
    return [folder / name for name in sorted({*names, own.name})]


def write_own(folder: Path) -> Path:
    """Write the wheel of the Kale that runs here and return its path; raises UsageError if it is not installed as a package."""
    try:
        about = metadata.distribution("kale-magic")
    except metadata.PackageNotFoundError as exc:
        raise UsageError("The Kale that runs here is not installed as a package, so it can't be brought to another host.", "pip install kale-magic") from exc
    info = f"kale_magic-{version.__version__}.dist-info"
    text = re.sub(r"(?m)^Version: .*$", f"Version: {version.__version__}", about.read_text("METADATA") or "", count=1)
    files: dict[str, bytes] = dict(_packages())
    files |= {f"kale_magic-{version.__version__}.data/data/share/jupyter/kernels/{name}": data for name, data in _kernelspecs()}
    files |= {
        f"{info}/METADATA": text.encode(),
        f"{info}/entry_points.txt": (about.read_text("entry_points.txt") or "").encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: kale\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = [f"{name},sha256={_record_digest(data)},{len(data)}" for name, data in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,", ""]).encode()
    path = folder / f"kale_magic-{version.__version__}-py3-none-any.whl"
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, _ZIP_EPOCH)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            wheel.writestr(entry, data)
    temporary.replace(path)
    return path


def _packages() -> Iterator[tuple[str, bytes]]:
    for base in _OURS:
        for path in sorted(base.rglob("*")):
            relative = path.relative_to(base)
            if path.is_file() and "__pycache__" not in relative.parts and relative.parts[0] != "kernelspecs":
                yield f"{base.name}/{relative}", path.read_bytes()
    for name, data in _kernelspecs():
        yield f"kale_magic/kernelspecs/{name}", data


def _kernelspecs() -> Iterator[tuple[str, bytes]]:
    package = _OURS[0]
    for home in (package / "kernelspecs", package.parent / "kernelspecs"):
        if home.is_dir():
            for path in sorted(home.rglob("*")):
                if path.is_file():
                    yield str(path.relative_to(home)), path.read_bytes()
            return


def _record_digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def _download(platform: Platform, wanted: Sequence[str], folder: Path) -> list[str]:
    """Have pip bring the wheels of ``wanted`` and all they need; return their names.

    Pip looks at conditions such as ``python_version < "3.12"`` with the Python that runs it; what only the other one needs
    is asked for afterwards.
    """
    names = _pip(platform, wanted, folder)
    while missing := sorted(_missing(platform, folder, names)):
        names = sorted({*names, *_pip(platform, missing, folder)})
    return names


def _pip(platform: Platform, wanted: Sequence[str], folder: Path) -> list[str]:
    if util.find_spec("pip") is None:
        raise UsageError(f"{sys.executable} has no pip, which brings the packages together.", f"{sys.executable} -m ensurepip")
    import tempfile

    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        words = ["download", "--disable-pip-version-check", "--no-input", "--quiet", "--only-binary=:all:", "--find-links", str(folder), "--dest", fresh]
        try:
            done = subprocess.run(
                [sys.executable, "-m", "pip", *words, *platform.options(), *wanted],
                capture_output=True, text=True, errors="replace", check=False, stdin=subprocess.DEVNULL, timeout=_PIP_S,
            )  # fmt: skip
        except subprocess.TimeoutExpired as exc:
            raise UsageError(f"pip has not downloaded what Kale needs within {_PIP_S:g} s.", "Ask again: what has come is kept.") from exc
        found = sorted(path.name for path in Path(fresh).glob("*.whl"))
        for name in found:
            os.replace(Path(fresh, name), folder / name)
    if done.returncode != 0:
        errors = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
        said = (errors or done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"])[-1].rstrip(".")
        raise UsageError(f"The packages for {platform} can't be brought together: {said}.", "This machine needs a way to the package index, or the wheels in pip's find-links.")
    return found


def _missing(platform: Platform, folder: Path, names: Sequence[str]) -> set[str]:
    """Return the requirements that the other Python has, and no wheel in ``names`` meets."""
    from packaging.utils import canonicalize_name, parse_wheel_filename

    have = {str(parse_wheel_filename(name)[0]) for name in names}
    missing = set()
    for name in names:
        for requirement in _requirements(folder / name):
            is_meant = requirement.marker is None or requirement.marker.evaluate(platform.marker_values())
            if is_meant and canonicalize_name(requirement.name) not in have:
                missing.add(f"{requirement.name}{requirement.specifier}")
    return missing


def _needs(wheel: Path) -> list[str]:
    return [str(requirement) for requirement in _requirements(wheel)]


def _requirements(wheel: Path) -> Iterator[Requirement]:
    from email.parser import Parser

    from packaging.requirements import Requirement

    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name)]
        text = archive.read(name).decode("utf-8", "replace")
    for line in Parser().parsestr(text, headersonly=True).get_all("Requires-Dist") or ():
        yield Requirement(str(line))
