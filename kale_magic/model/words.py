"""Split a magic's line into words, with quotes and brackets respected.

``--each m=['Al', 'Cu'] --describe "don't"`` is four words. Words keep their quotes, since ``name='10'`` is text
and ``n=10`` a number; :func:`unquote` takes them off. A ``#`` that begins a word begins a comment.
"""

from __future__ import annotations

import ast

from kale_magic.errors import UsageError

_CLOSES = {"(": ")", "[": "]", "{": "}"}


def split(line: str) -> list[str]:
    """Return the words of a line.

    Raises
    ------
    UsageError
        A quote or bracket is never closed.
    """
    words: list[str] = []
    at = 0
    while at < len(line):
        if line[at].isspace():
            at += 1
        elif line[at] == "#":
            break
        else:
            end = _word_end(line, at)
            words.append(line[at:end])
            at = end
    return words


def _word_end(line: str, start: int) -> int:
    opened: list[str] = []
    at = start
    while at < len(line):
        char = line[at]
        if char in "'\"" and _opens_quote(line, at, start):
            at = _quote_end(line, at)
            continue
        if char in _CLOSES:
            opened.append(char)
        elif opened and char == _CLOSES[opened[-1]]:
            opened.pop()
        elif char.isspace() and not opened:
            break
        at += 1
    if opened:
        raise UsageError(f"{opened[-1]!r} is never closed in: {line[start:].strip()}", f"Close it, or quote the text: '{opened[-1]}'.")
    return at


def _opens_quote(line: str, at: int, start: int) -> bool:
    # the apostrophe of don't stands inside a word and opens nothing; r'..' and b'..' do
    before = line[start:at]
    return not before or not (before[-1].isalnum() or before[-1] in "_'\"") or _is_prefix(before)


def _is_prefix(before: str) -> bool:
    letters = before[len(before.rstrip("rRbBuUfF")) :]
    rest = before[: len(before) - len(letters)]
    return 0 < len(letters) <= 2 and (not rest or rest[-1] in "=,([{ :")


def _quote_end(line: str, at: int) -> int:
    quote = line[at] * 3 if line[at : at + 3] == line[at] * 3 and line.find(line[at] * 3, at + 3) > 0 else line[at]
    end = at + len(quote)
    while end < len(line) and not line.startswith(quote, end):
        end += 2 if line[end] == "\\" else 1
    if end >= len(line):
        raise UsageError(f"The quote {quote} is never closed in: {line[at:].strip()}", "Close it on the same line.")
    return end + len(quote)


def is_quoted(word: str) -> bool:
    """Whether the whole word is one quoted text."""
    return len(word) > 1 and word[0] in "'\"" and _ends_at(word) == len(word)


def _ends_at(word: str) -> int:
    try:
        return _quote_end(word, 0)
    except UsageError:
        return 0


def unquote(word: str) -> str:
    r"""Return the text of a word: without the quotes around it, ``\'`` as ``'``; an unquoted word as it stands.

    ``u'...'`` is read as Python reads it, ``\n`` included; elsewhere a backslash is a backslash, as LaTeX needs.
    """
    if word[:1] == "u" and is_quoted(word[1:]):
        try:
            return str(ast.literal_eval(word))
        except (ValueError, SyntaxError):
            return word
    if not is_quoted(word):
        return word
    size = 3 if len(word) >= 6 and word[:3] == word[0] * 3 else 1
    return word[size:-size].replace("\\" + word[0], word[0])


def quote(text: str) -> str:
    """Return a word that :func:`split` keeps whole and :func:`unquote` turns back into ``text``."""
    is_simple = not any(sign in text for sign in "{'\"")
    candidates = [*([text] if is_simple else []), f"'{text}'", f'"{text}"', "u" + repr(text)]
    return next(word for word in candidates if unquote(word) == text and _is_one_word(word))


def _is_one_word(word: str) -> bool:
    try:
        return word.isprintable() and not word.startswith("-") and split(word) == [word]
    except UsageError:
        return False


def split_commas(text: str) -> list[str]:
    """Return the parts between commas, stripped, without empty ones; quotes and brackets are respected."""
    parts, start, at = [], 0, 0
    opened: list[str] = []
    while at < len(text):
        char = text[at]
        if char in "'\"" and _opens_quote(text, at, start):
            at = _quote_end(text, at)
            continue
        if char in _CLOSES:
            opened.append(char)
        elif opened and char == _CLOSES[opened[-1]]:
            opened.pop()
        elif char == "," and not opened:
            parts.append(text[start:at])
            start = at + 1
        at += 1
    parts.append(text[start:])
    return [part.strip() for part in parts if part.strip()]
