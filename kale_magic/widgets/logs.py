"""The logs of a job as a widget: what is new travels, what stands before and what is searched for is read when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from traitlets import Dict

from kale_magic.api import files
from kale_magic.errors import UsageError
from kale_magic.render.ansi import ANSI_STYLE, ansi_to_html
from kale_magic.render.words import escape, plain
from kale_magic.widgets._page import script
from kale_magic.widgets.jobs import JobPart
from kale_proxy import pack, pieces

if TYPE_CHECKING:
    from pathlib import Path

    from kale_magic.widgets.desk import Seen
    from kale_magic.widgets.viewmodel.focus import Job

_FILES = {"out": "stdout.log", "err": "stderr.log"}
_TEXT_LINES = 40
_STATIC = 12 << 10  # characters of each log in the saved notebook: it is sent anew every five seconds while the log grows
_KEPT = 200  # pieces for a page that comes late


class _PackedTail:
    """Follows what a point printed that shares its files with others (``--reuse-kernel``): its end, and what came since."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / name  # there is none
        self._folder, self._name, self._at = folder, name, 0

    def read(self) -> pieces.Piece | None:
        before = self._at
        text, self._at = files.since(self._folder, self._name, before)
        if not text:
            return None
        shown = text[-pieces.WINDOW :]
        return pieces.Piece(shown, self._at - len(shown.encode()), len(text) - len(shown) if before else 0, is_new=not before or self._at < before)


class Logs(JobPart):
    """stdout and stderr of a job, apart or together, as they grow."""

    _esm = script("job", "logs")
    title = "Logs"
    tail = Dict().tag(sync=True)  # grows in place; a page that is there gets messages

    def __init__(self, *args: Any, **options: Any) -> None:
        self._tails: dict[str, pieces.Tail | _PackedTail] = {}
        super().__init__(*args, **options)

    def begin(self, job: Job | None, folder: Path | None) -> None:
        """Show another job's logs, from their ends on."""
        if folder is None or job is None:
            self._tails = {}
        elif pack.of(folder) is not None:
            self._tails = {src: _PackedTail(folder, name) for src, name in _FILES.items()}
        else:
            self._tails = {src: pieces.Tail(folder / name) for src, name in _FILES.items()}
        read = {src: tail.read() for src, tail in self._tails.items()}
        found = {src: piece for src, piece in read.items() if piece is not None}
        self.tail = {
            "parts": [[src, piece.text, 0] for src, piece in found.items()],
            "start": {src: found[src].start if src in found else 0 for src in _FILES},
        }

    def go_on(self, _: Seen) -> None:
        """Tell what was written since."""
        if self.folder is not None and not self._is_packed() and not (self.folder / _FILES["out"]).exists() and pack.of(self.folder) is not None:
            self.begin(self.shown, self.folder)  # the first point of its sweep has begun
            return
        parts: list[list[Any]] = []
        for src, tail in self._tails.items():
            piece = tail.read()
            if piece is None:
                continue
            if piece.is_new and (piece.start or any(part[0] == src for part in self.tail["parts"])):  # a new attempt, or an end that has come from elsewhere
                self.begin(self.shown, self.folder)
                return
            parts.append([src, piece.text, piece.skipped])
        if parts:
            kept: list[list[Any]] = self.tail["parts"]
            kept += parts
            while len(kept) > 1 and (len(kept) > _KEPT or sum(len(part[1]) for part in kept) > 4 * pieces.WINDOW):
                src, text, _skipped = kept.pop(0)
                self.tail["start"][src] += len(text.encode())
            self.send({"t": "add", "parts": parts})

    def asked(self, message: dict[str, Any]) -> str | None:
        """Send what stands before, or where a word is."""
        kind, view = message.get("t"), message.get("id")
        if kind == "here":  # what was told while the page was loading the script has been lost to it
            with self.desk.lock:
                self.tail = {"parts": list(self.tail["parts"]), "start": dict(self.tail["start"]), "sent": self.tail.get("sent", 0) + 1}
            return None
        if self._is_packed():
            return "Points of this sweep share their files, and only what is shown here can be looked through: %kale_logs has all of it."
        paths = [self._tails[src].path for src in _FILES if src in self._tails and message.get("src") in {src, "both"}]
        paths = [path for path in paths if path.exists()]
        if not paths:
            return "There is no log yet."
        if kind == "before":
            piece = self.desk.texts.before(paths[0], _number(message.get("at")) or 0)
            self.send({"t": "piece", "id": view, "before": True, "src": message["src"], "text": piece.text, "start": piece.start})
        elif kind == "find":
            self._find(paths[0], str(message.get("word") or ""), message)
        return None

    def _is_packed(self) -> bool:
        return any(isinstance(tail, _PackedTail) for tail in self._tails.values())

    def _find(self, path: Path, word: str, message: dict[str, Any]) -> None:
        last, is_back = _number(message.get("at")), bool(message.get("back"))
        start = (path.stat().st_size if is_back else 0) if last is None else last + (0 if is_back else 1)
        at = self.desk.texts.find(path, word, start, is_backward=is_back)
        if at is None:
            where = "" if last is None else " above" if is_back else " below"
            self.send({"t": "say", "id": message.get("id"), "text": f"{word!r} is not found{where} in {path.name}."})
            return
        piece, line = self.desk.texts.around(path, at)
        src = next(key for key, name in _FILES.items() if name == path.name)
        self.send({"t": "piece", "id": message.get("id"), "src": src, "text": piece.text, "start": piece.start, "line": line, "at": at})

    def _ends(self) -> dict[str, str]:
        whole = {src: "".join(part[1] for part in self.tail.get("parts", ()) if part[0] == src) for src in _FILES}
        return {src: text[-pieces.WINDOW :] for src, text in whole.items()}

    def text(self) -> str:
        """Return the last lines of the logs."""
        lines = [str(self.job.get("label") or "no run yet")]
        for src, end in self._ends().items():
            last = plain(_settled(end)).splitlines()[-_TEXT_LINES:]
            lines += [f"-- {_FILES[src]}", *last] if last else []
        return "\n".join(lines)

    def static(self) -> str:
        """Return the ends of the logs as HTML."""
        texts = {src: text if len(text) <= _STATIC else text[-_STATIC:].partition("\n")[2] or text[-_STATIC:] for src, text in self._ends().items()}
        blocks = [f"<div>{_FILES[src]}</div><pre>{ansi_to_html(_settled(text))}</pre>" for src, text in texts.items() if text]
        return f"<style>{ANSI_STYLE}</style><div><b>{escape(self.job.get('label'))}</b></div>" + "".join(blocks)


def _settled(text: str) -> str:
    """Return text as a terminal leaves it: of a line that was written over, the last form."""
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))


def _number(value: object) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or value < 0:
        raise UsageError("The page asked for a place that is none.")
    return value
