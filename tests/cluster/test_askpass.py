"""A login by ssh itself whose questions a callback answers, as in the dashboard: password, code, and an unknown host key."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from kale_magic.render.view import Graph
from kale_magic.widgets.desk import Seen
from kale_magic.widgets.ssh import Ssh
from kale_proxy.tunnel import dialer as dialers
from kale_proxy.tunnel.dialer import Dialer
from kale_proxy.tunnel.errors import AuthenticationError, HostKeyError
from kale_proxy.tunnel.openssh import OpenSSH
from tests.cluster.conftest import PASSWORD, code, without_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.cluster.hosts import Hosts

pytestmark = [pytest.mark.ssh, pytest.mark.slurm]


@pytest.fixture(autouse=True)
def _laptop(hosts: Hosts) -> Iterator[None]:
    with hosts.laptop.here():
        yield


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Callable[[Path], Dialer]:
    """Return ``use(config)``: makes this process's dialer one with that ssh configuration."""

    def use(config: Path) -> Dialer:
        made = Dialer(OpenSSH(["ssh", "-F", str(config)], folder), folder / "ways.json")
        monkeypatch.setattr(dialers, "default", lambda: made)
        return made

    return use


def test_password_and_code_are_asked_for_once_and_the_connection_is_kept(hosts, folder, two_factor, use) -> None:
    use(without_keys(hosts, folder, two_factor))
    asked: list[tuple[str, bool]] = []

    def ask(prompt: str, is_shown: bool) -> str:
        asked.append((prompt, is_shown))
        return code(0) if "One-time" in prompt else PASSWORD

    assert not dialers.is_up("login")
    assert dialers.log_in("login", ask, timeout=30) == "ssh"
    assert dialers.is_up("login")
    assert dialers.log_in("login", ask, timeout=30) == "ssh"
    assert [("One-time" in prompt, is_shown) for prompt, is_shown in asked] == [(False, False), (True, False)]
    assert not list(folder.glob("q*"))  # the place of the questions is gone


def test_wrong_answers_and_giving_up_are_told_apart_from_nobody_to_ask(hosts, folder, two_factor, use) -> None:
    use(without_keys(hosts, folder, two_factor))
    with pytest.raises(AuthenticationError, match="was given no right answer"):
        dialers.log_in("login", lambda *_: "wrong", timeout=60)
    with pytest.raises(AuthenticationError, match="was given no right answer"):
        dialers.log_in("login", lambda *_: None, timeout=60)


def test_fingerprint_of_an_unknown_host_is_shown_and_a_changed_one_is_refused_without_a_question(hosts, use) -> None:
    fingerprint = subprocess.run(
        ["ssh-keygen", "-lf", hosts.folder / "host_login.pub"], capture_output=True, text=True, check=True
    ).stdout.split()[1]
    asked: list[tuple[str, bool]] = []

    def no(prompt: str, is_shown: bool) -> str:
        asked.append((prompt, is_shown))
        return "no"

    use(hosts.ssh_config)
    try:
        hosts.write_known_hosts(login="")
        with pytest.raises(HostKeyError):
            dialers.log_in("login", no, timeout=30)
        [(prompt, is_shown)] = asked
        assert fingerprint in prompt
        assert is_shown
        hosts.write_known_hosts(login=" ".join((hosts.folder / "host_node1.pub").read_text().split()[:2]))
        with pytest.raises(HostKeyError, match="somebody may be listening"):
            dialers.log_in("login", no, timeout=30)
        assert len(asked) == 1
    finally:
        hosts.write_known_hosts()


class NoLogin:
    """A client of a manager that has no login to a REST service."""

    def rest(self) -> dict[str, Any]:
        return {}


class Still:
    """A desk that follows nothing."""

    def __init__(self) -> None:
        self.seen = Seen(graph=Graph(()))
        self.client = NoLogin()

    def add(self, part: Any) -> None:
        part.show(self.seen)

    def remove(self, part: Any) -> None:
        pass


def test_widget_hands_answers_on_and_keeps_none(hosts, folder, two_factor, use, until) -> None:
    dialer = use(without_keys(hosts, folder, two_factor))
    widget = Ssh(Still())
    widget.heard({"t": "connect", "host": "login"})
    with hosts.laptop.here():
        first = until(lambda: widget.question.get("id"), "the first question")
        assert "assword" in widget.question["prompt"]
        assert not widget.question["shown"]
        widget.heard({"t": "answer", "id": "another", "text": "nothing"})
        widget.heard({"t": "answer", "id": first, "text": PASSWORD})
        second = until(lambda: widget.question.get("id") not in {None, first} and widget.question["id"], "the second question")
        widget.heard({"t": "answer", "id": second, "text": code(0)})
        until(lambda: widget.state["word"] == "connected", "the connection")
    assert PASSWORD not in str(widget.get_state())
    assert code(0) not in str(widget.get_state())
    assert dialer.ssh is not None
    assert not dialer.ssh.askpass
    widget.close()
