"""Write plain data as YAML that people like to read, and that every YAML 1.1 or 1.2 reader reads the same.

A writer of our own, since PyYAML gives up block scalars for code with a tab, a trailing space or an emoji.
Scalars are plain only where no reader can take them for anything but text; all else is JSON's double quotes.
"""

from __future__ import annotations

import json
import re
from typing import Any

from kale_magic.model.literals import MARK

_WIDTH = 100
_PLAIN = re.compile(r"[A-Za-z_](?:[A-Za-z0-9_./+=()*$%^@~<>|\\'-]|[ ](?![#\s])|,(?=[ ]))*(?<![ ])")
_PLAIN_IN_LIST = re.compile(r"[A-Za-z_](?:[A-Za-z0-9_./+=()*$%^@~<>|\\'-]|[ ](?![#\s]))*(?<![ ])")
_AMOUNT = re.compile(r"[0-9]+[KMGT]B")
# YAML 1.1 takes these for true, false and nothing
_RESERVED = frozenset({"true", "false", "yes", "no", "on", "off", "null"})
# YAML 1.1 breaks lines at U+0085, U+2028 and U+2029
_NOT_PLAIN_TEXT = re.compile("[^\t\n\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_ESCAPED = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


def write(data: dict[str, Any]) -> str:
    """Return the text of a mapping of JSON values."""
    lines: list[str] = []
    _mapping(data, "", lines)
    return "\n".join(lines) + "\n"


def _mapping(data: dict[str, Any], indent: str, lines: list[str]) -> None:
    for key, value in data.items():
        _entry(f"{indent}{_scalar(key, _PLAIN_IN_LIST)}:", value, f"{indent}  ", lines)


def _entry(head: str, value: Any, indent: str, lines: list[str]) -> None:
    if isinstance(value, dict) and value and set(value) != {MARK}:
        lines.append(head)
        _mapping(value, indent, lines)
    elif isinstance(value, list) and len(_flow(value)) + len(indent) > _WIDTH:
        _long_list(head, value, indent, lines)
    elif isinstance(value, list | dict):
        lines.append(f"{head} {_flow(value)}")
    elif isinstance(value, str) and "\n" in value and not _NOT_PLAIN_TEXT.search(value) and value.strip():
        _block(head, value, indent, lines)
    else:
        lines.append(f"{head} {_scalar(value, _PLAIN)}")


def _long_list(head: str, items: list[Any], indent: str, lines: list[str]) -> None:
    if any(isinstance(item, list | dict) or (isinstance(item, str) and len(item) > _WIDTH // 4) for item in items):
        lines += [head, *(f"{indent}- {_flow(item)}" for item in items)]
        return
    lines.append(f"{head} [")
    row = indent
    for number, item in enumerate(items, start=1):
        word = _flow(item) + ("," if number < len(items) else "]")
        if len(row) + len(word) > _WIDTH and row != indent:
            lines.append(row.rstrip(" "))
            row = indent
        row += f"{word} "
    lines.append(row.rstrip(" "))


def _block(head: str, text: str, indent: str, lines: list[str]) -> None:
    body = text.rstrip("\n")
    tail = len(text) - len(body)
    # readers guess the indentation from the first line, which fails if that is empty or begins with white space
    hint = str(len("  ")) if body[0] in " \n\t" else ""
    lines.append(f"{head} |{hint}{'-' if tail == 0 else '+' if tail > 1 else ''}")
    lines += [f"{indent}{line}" if line else "" for line in body.split("\n")]
    lines += [""] * (tail - 1)


def _flow(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_flow, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_scalar(key, _PLAIN_IN_LIST)}: {_flow(item)}" for key, item in value.items()) + "}"
    return _scalar(value, _PLAIN_IN_LIST)


def _scalar(value: Any, plain: re.Pattern[str]) -> str:
    if isinstance(value, str):
        is_plain = plain.fullmatch(value) and value.lower() not in _RESERVED and len(value) < 4 * _WIDTH
        if is_plain or _AMOUNT.fullmatch(value):
            return value
        return _ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", json.dumps(value, ensure_ascii=False))
    if isinstance(value, float) and "e" in repr(value) and "." not in repr(value):
        return repr(value).replace("e", ".0e")  # YAML 1.1 takes 1e-05 for text
    return json.dumps(value)
