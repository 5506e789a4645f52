"""Code that sets parameters and inputs in a kernel that is not our own, in its language. Called by :mod:`kale_proxy.kernelrun`."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import TYPE_CHECKING

from kale_proxy import values

if TYPE_CHECKING:
    from kale_proxy.spec import JobSpec

# The values module travels as source: the kernel's environment need not have this package.
VALUES = (
    "import sys as _s, types as _t\n"
    "_kale_values = _t.ModuleType('_kale_values'); _s.modules['_kale_values'] = _kale_values\n"
    f"exec(compile({inspect.getsource(values)!r}, '<kale values>', 'exec'), _kale_values.__dict__)\ndel _s, _t"
)


def python_prelude(spec: JobSpec) -> str:
    """Return Python that sets a step's parameters and inputs."""
    lines = [f"{name} = {text}" for name, text in spec.params.items()]
    if spec.inputs:
        lines += [VALUES, "from pathlib import Path as _p"]
    for item in spec.inputs:
        paths = [str(values.file_of(Path(folder), item.output, Path(spec.folder) / "inputs")) for folder in item.folders]
        loads = [f"_kale_values.load_file(_p({path!r}), {item.output!r})" for path in paths]
        lines.append(f"{item.name} = [{', '.join(loads)}]" if item.gather else f"{item.name} = {loads[0]}")
        if item.gather:
            lines.append(f"{item.name}_params = [{', '.join(item.gather_params)}]")
    if spec.inputs:
        lines.append("del _p, _kale_values")
    return "\n".join(lines)


def _quoted(value: object) -> str:
    if isinstance(value, bool) or value is None:
        raise values.ValueFileError("true, false and none differ between languages: give them as text")
    return json.dumps(value)


def _shell_word(value: object) -> str:
    import shlex

    return shlex.quote(value if isinstance(value, str) else json.dumps(value) if isinstance(value, (list, dict)) else str(value))


ASSIGN = {
    "bash": lambda name, value: f"{name}={_shell_word(value)}",
    "r": lambda name, value: f"{name} <- {_quoted(value)}",
    "julia": lambda name, value: f"{name} = {_quoted(value)}",
}
