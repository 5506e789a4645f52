"""Sockets and state live in folders of this user alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kale_proxy import places


def test_kale_home_moves_state_and_sockets_apart(monkeypatch, tmp_path):
    found = []
    for name in ("a", "b"):
        monkeypatch.setenv("KALE_HOME", str(tmp_path / name))
        found.append((places.state_dir(), places.socket_dir()))
    try:
        assert found[0][0] == tmp_path / "a"
        assert found[0][1] != found[1][1]
        assert all(path.stat().st_mode & 0o777 == 0o700 for pair in found for path in pair)
        assert len(str(found[0][1])) < 40
    finally:
        for _, sockets in found:
            sockets.rmdir()


def test_open_folder_of_ours_is_closed(tmp_path):
    folder = tmp_path / "open"
    folder.mkdir(mode=0o755)
    assert places.private_dir(folder).stat().st_mode & 0o777 == 0o700


def test_folder_that_everybody_uses_is_refused_and_stays_open(tmp_path):
    folder = tmp_path / "tmp"
    folder.mkdir()
    folder.chmod(0o1777)
    with pytest.raises(places.PlaceError, match="everybody uses: set KALE_HOME"):
        places.private_dir(folder)
    assert folder.stat().st_mode & 0o7777 == 0o1777


def test_link_in_tmp_is_refused(tmp_path):
    link = Path("/tmp") / f"kale-link-{os.getpid()}"
    link.symlink_to(tmp_path)
    try:
        with pytest.raises(places.PlaceError, match="symbolic link"):
            places.private_dir(link)
    finally:
        link.unlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a folder to another user needs root: run as root")
def test_folder_of_another_user_is_refused(tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    os.chown(folder, 12345, 12345)
    with pytest.raises(places.PlaceError, match="belongs to uid 12345"):
        places.private_dir(folder)


def test_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(places.PlaceError, match="file/x can't be made"):
        places.private_dir(tmp_path / "file" / "x")


def test_a_tree_is_removed_and_what_links_lead_to_stays(tmp_path):
    from kale_proxy.places import remove_tree

    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("x")
    (tmp_path / "gone" / "deep").mkdir(parents=True)
    (tmp_path / "gone" / "deep" / "file").write_text("x")
    (tmp_path / "gone" / "link").symlink_to(tmp_path / "kept")
    remove_tree(tmp_path / "gone")
    remove_tree(tmp_path / "never was")
    assert not (tmp_path / "gone").exists()
    assert (tmp_path / "kept" / "file").exists()
