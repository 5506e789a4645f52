"""What in a step's code makes two runs differ, as far as it can be seen without running it; called by ``check``."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_SEEDS = frozenset({"seed", "manual_seed", "set_seed", "set_random_seed", "RandomState", "Random", "SeedSequence"})
_FREE = frozenset({"Random", "SystemRandom"})  # of the module random: not draws
_CLOCK = frozenset({
    "time.time", "time.time_ns", "datetime.now", "datetime.datetime.now", "dt.datetime.now", "datetime.utcnow",
    "datetime.today", "date.today", "datetime.date.today",
})  # fmt: skip
_UNIQUE = frozenset({"uuid.uuid1", "uuid.uuid4", "uuid1", "uuid4", "os.urandom", "os.getpid", "secrets.token_hex", "secrets.token_bytes"})
_LISTINGS = frozenset({"os.listdir", "os.scandir", "glob.glob", "glob.iglob"})
_SHELL = re.compile(r"\$\{?RANDOM\b|\b(?:shuf|uuidgen|mktemp)\b|/dev/u?random|\$\((?:date)\b|`date\b")


def chances(code: str, common: str = "") -> list[str]:
    """Return what makes a Python step differ from run to run, in a few words each.

    Parameters
    ----------
    code : str
        The step's cell.
    common : str
        The code before it, in which a seed may be set.
    """
    tree = _tree(code)
    if tree is None:
        return []
    calls = list(_calls(tree))
    before = _tree(common)
    names = {name for name, _ in (*calls, *(() if before is None else _calls(before)))}
    is_seeded = any(name.rpartition(".")[2] in _SEEDS for name in names)
    found: dict[str, None] = {}
    for name, node in calls:
        if word := _chance(name, node, tree, is_seeded=is_seeded):
            found[word] = None
    return list(found)


def shell_chances(code: str) -> list[str]:
    """Return the same for a shell step."""
    return list(dict.fromkeys(f"`{match[0].strip('$(`')}`" for match in _SHELL.finditer(code)))


def _chance(name: str, node: ast.Call, tree: ast.Module, *, is_seeded: bool) -> str:
    last = name.rpartition(".")[2]
    if last == "default_rng":
        return "" if node.args or node.keywords or is_seeded else f"`{name}()` without a seed"
    if name.startswith(("np.random.", "numpy.random.", "random.")) and last not in _SEEDS | _FREE:
        return "" if is_seeded else f"`{name}` without a seed"
    if name in _CLOCK and not _is_measured(name, tree):
        return f"the clock (`{name}`)"
    if name in _UNIQUE:
        return f"`{name}`"
    if name in _LISTINGS and not _is_sorted(node, tree):
        return f"the order of `{name}`, which is not sorted"
    return ""


def _is_measured(name: str, tree: ast.Module) -> bool:
    """Whether the clock is only read to see how long something takes: a difference is made of it."""
    reads = [call for other, call in _calls(tree) if other == name]
    taken = {target.id for node in ast.walk(tree) if isinstance(node, ast.Assign) and node.value in reads
             for target in node.targets if isinstance(target, ast.Name)}  # fmt: skip
    for node in ast.walk(tree):
        parts = [node.left, node.right] if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub) else []
        parts += [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
        if any(part in reads or (isinstance(part, ast.Name) and part.id in taken) for part in parts):
            return True
    return False


def _is_sorted(node: ast.Call, tree: ast.Module) -> bool:
    return any(name in {"sorted", "len", "set", "any", "all", "max", "min"} and any(part is node for part in ast.walk(call)) for name, call in _calls(tree))


def _calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            yield ast.unparse(node.func), node


def _tree(code: str) -> ast.Module | None:
    try:
        return ast.parse(code)
    except SyntaxError:  # a cell with %magics or !commands
        return None
