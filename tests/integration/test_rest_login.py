"""The authenticator of slurmrestd against services that answer badly: what it tells, where the token goes, and where it stays."""

from __future__ import annotations

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from kale_magic.errors import ExecutorError
from kale_magic.executors.rest_login import Authenticator, Silence

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SECRET = "very-secret-word"
GOOD = (200, json.dumps({"pings": [{"ping": "UP"}], "jobs": [], "errors": []}))


class Service:
    """A service that gives one answer to all, and keeps what it was asked."""

    def __init__(self) -> None:
        self.answer: tuple[int, str] = GOOD
        self.headers: dict[str, str] = {}
        self.asked: list[tuple[str, str | None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append((self.path, self.headers.get("X-SLURM-USER-TOKEN")))
                code, text = outer.answer
                self.send_response(code)
                for name, value in outer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def service() -> Iterator[Callable[[], Service]]:
    made: list[Service] = []

    def make() -> Service:
        made.append(Service())
        return made[-1]

    yield make
    for one in made:
        one.close()


def log_in(file: Path, url: str) -> Authenticator:
    auth = Authenticator(file, 5.0)
    asyncio.run(auth.log_in(url, "ada", SECRET))
    return auth


def test_login_is_kept_for_the_owner_alone_and_forgotten_when_told(tmp_path: Path, service: Callable[[], Service]) -> None:
    there, file = service(), tmp_path / "keys" / "rest.json"
    auth = log_in(file, there.url)
    assert {asked[1] for asked in there.asked} == {SECRET}
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert Authenticator(file, 5.0).login == auth.login  # the next manager goes on
    file.chmod(0o640)
    assert Authenticator(file, 5.0).login is None  # others may have written it
    auth.forget()
    assert not file.exists()
    with pytest.raises(Silence, match="there is no login"):
        asyncio.run(auth.ask("GET", "/ping"))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((401, "no"), "does not take the token of ada"),
        ((404, "not here"), "has no /slurm/v0.0.38 of slurmrestd"),
        ((200, "<html>"), "what answered is no slurmrestd"),
        ((200, '{"pings": [{"ping": "DOWN"}]}'), "answers, and Slurm behind it does not"),
        ((500, '{"errors": [{"error": "Unspecified error", "description": "slurmctld config is unable to load"}]}'), "Slurm does not take the token of ada"),
    ],
)
def test_service_that_answers_badly_is_one_sentence_without_the_token(tmp_path: Path, service: Callable[[], Service], answer: tuple[int, str], words: str) -> None:
    there = service()
    there.answer = answer
    with pytest.raises(ExecutorError, match=words) as caught:
        log_in(tmp_path / "rest.json", there.url)
    assert SECRET not in f"{caught.value}{caught.value.__cause__}{caught.value.__context__!r}"
    assert not (tmp_path / "rest.json").exists()


def test_token_is_not_sent_along_a_redirect(tmp_path: Path, service: Callable[[], Service]) -> None:
    first, second = service(), service()
    first.answer, first.headers = (302, ""), {"Location": f"{second.url}/slurm/v0.0.38/ping"}
    with pytest.raises(ExecutorError, match="HTTP 302"):
        log_in(tmp_path / "rest.json", first.url)
    assert second.asked == []


def test_service_that_is_not_there_is_one_sentence(tmp_path: Path, service: Callable[[], Service]) -> None:
    there = service()
    there.close()
    with pytest.raises(ExecutorError, match="does not answer: .*refused"):
        log_in(tmp_path / "rest.json", there.url)
