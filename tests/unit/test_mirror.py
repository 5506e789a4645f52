"""What is fetched from a login host, and what is not; no host."""

import hashlib

import pytest

from kale_magic.api import mirror
from kale_magic.errors import UsageError


class Far:
    """A client of a host that lists what it is told."""

    host = "login"

    def __init__(self, folder, files):
        self.state_dir, self.listed = folder, files

    def files(self, folder, patterns, *, makes=False):
        return self.listed


def item(data=b"x", *, is_own=True):
    return {"size": len(data), "digest": hashlib.sha256(data).hexdigest(), "is_own": is_own}


@pytest.fixture
def sent(monkeypatch):
    """Batches of sftp; none is done."""
    found = []
    monkeypatch.setattr(mirror, "_sftp", lambda host, lines: found.append(list(lines)))
    monkeypatch.setattr(mirror, "_seen", {})
    return found


@pytest.mark.parametrize("name", ["../../.bashrc", "/etc/cron.d/x", "a/../../b"])
def test_a_host_cannot_name_a_file_outside_of_the_folder(tmp_path, sent, name):
    with pytest.raises(UsageError, match="names a file outside"):
        mirror.fetch(Far(tmp_path, {name: item()}), "/runs/a", ("*",))
    assert sent == []


def test_a_value_that_others_could_have_written_is_not_taken(tmp_path, sent):
    with pytest.raises(UsageError, match="is not yours alone"):
        mirror.fetch(Far(tmp_path, {"outputs/x.pkl": item(is_own=False)}), "/runs/a", ("*",))
    assert sent == []


def test_a_file_that_is_here_already_is_not_fetched(tmp_path, sent):
    far = Far(tmp_path, {"a.log": item(b"same")})
    here = tmp_path / "hosts" / "login.files" / "runs" / "a"
    here.mkdir(parents=True)
    (here / "a.log").write_bytes(b"same")
    assert mirror.fetch(far, "/runs/a", ("*",)) == here
    assert sent == []


def test_a_part_of_something_else_is_thrown_away(tmp_path, sent):
    far = Far(tmp_path, {"step.ipynb": item(b"whole")})
    here = tmp_path / "hosts" / "login.files" / "runs" / "a"
    here.mkdir(parents=True)
    part = here / f"step.ipynb.kale-part-{item(b'whole')['digest'][:12]}"
    part.write_bytes(b"oth")
    with pytest.raises(UsageError, match="changed while it was fetched"):
        mirror.fetch(far, "/runs/a", ("*",))
    assert sent[0][0].startswith("get -a ")
    assert not part.exists()


def test_a_part_that_is_whole_takes_its_name_and_one_that_is_too_long_is_fetched_anew(tmp_path, sent):
    far = Far(tmp_path, {"a": item(b"whole"), "b": item(b"short")})
    here = tmp_path / "hosts" / "login.files" / "runs" / "a"
    here.mkdir(parents=True)
    for name, data, left in (("a", b"whole", b"whole"), ("b", b"short", b"much longer")):
        (here / f"{name}.kale-part-{item(data)['digest'][:12]}").write_bytes(left)
    with pytest.raises(UsageError, match="b of /runs/a on login changed"):
        mirror.fetch(far, "/runs/a", ("*",))
    assert (here / "a").read_bytes() == b"whole"
    [[line]] = sent
    assert line.startswith('get "/runs/a/b"')


def test_names_are_quoted_for_sftp_and_a_line_break_is_refused():
    assert mirror._quoted('a "b" \\ [1]*?') == '"a \\"b\\" \\\\ [1]*?"'
    with pytest.raises(UsageError, match="line break"):
        mirror._quoted("a\nrm b")
