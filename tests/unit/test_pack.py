"""What many points leave in a few files is found as if each had a folder of its own."""

from __future__ import annotations

import os
import pickle
from typing import TYPE_CHECKING

import pytest

from kale_proxy import pack, values

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def writer() -> Iterator[Callable[..., pack.Writer]]:
    made: list[pack.Writer] = []

    def make(folder: Path, lane: int = 1) -> pack.Writer:
        made.append(begun(folder, lane))
        return made[-1]

    yield make
    for one in made:
        one.close()


def begun(folder: Path, lane: int) -> pack.Writer:
    folder.mkdir(exist_ok=True)
    fd = os.open(pack.points_file(folder, lane), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(fd, b'{"claim": {"pid": 1}}\n')
    os.close(fd)
    return pack.Writer(folder, lane)


def end(to: pack.Writer, point: int, attempt: int = 1, *, state: str = "completed", text: str = "", **outputs: object) -> None:
    uuid = f"{point:02d}{attempt:02d}"
    to.begin(point, uuid, attempt, "now")
    index = {name: to.save(name, value, frozenset()) for name, value in outputs.items()}
    to.end(point, uuid, attempt, {"result": {"state": state, "outputs": index}, "stdout": text})


def test_values_of_all_forms_come_back_and_an_edited_one_goes_first(writer, tmp_path):
    step = tmp_path / "fit"
    to = writer(step)
    long = list(range(2000))
    for point in range(3):
        end(to, point, small={"a": point}, long=long, other=(point, {1}))
    outputs = step / "1" / "outputs"
    assert [values.load(outputs, name) for name in ("small", "long", "other")] == [{"a": 1}, long, (1, {1})]
    index = values.read_index(outputs)
    assert {name: info["file"] for name, info in index.items()} == {"small": "small.json", "long": "long.json", "other": "other.pkl"}
    with pytest.raises(values.ValueFileError, match="there is no value `none`"):
        values.load(outputs, "none")
    assert not (step / "1").exists()
    pack.unpack(step / "1")
    assert (outputs / "other.pkl").read_bytes()[:1] == b"\x80"
    values.save("small", 5, outputs)
    assert values.load(outputs, "small") == 5
    assert values.load(step / "2" / "outputs", "small") == {"a": 2}


def test_what_is_written_later_is_seen_and_the_newest_attempt_counts(writer, tmp_path):
    step = tmp_path / "fit"
    first, second = writer(step, 1), writer(step, 2)
    end(first, 3, state="failed", text="bad\n")
    assert pack.result(step / "3")["state"] == "failed"
    second.begin(3, "aa", 2, "now")
    assert pack.result(step / "3") is None
    second.printed(3, "aa", 2, {"stdout": "so far\n"})
    assert pack.log(step / "3", "stdout.log") == "so far\n"
    second.end(3, "aa", 2, {"result": {"state": "completed", "outputs": {}}, "stdout": "good\n"})
    assert pack.log(step / "3", "stdout.log") == "so far\ngood\n"
    assert pack.result(step / "3")["state"] == "completed"
    assert pack.of_step(step).points() == [3]


def test_a_line_that_was_cut_off_hides_only_itself(writer, tmp_path):
    step = tmp_path / "fit"
    end(writer(step), 0, y=1)
    with open(pack.points_file(step, 1), "ab") as stream:
        stream.write(b'{"end": 1, "uuid": "aa", "attempt": 1, "resu')
    assert pack.result(step / "1") is None
    again = pack.Writer(step, 1)
    end(again, 2, y=3)
    again.close()
    assert values.load(step / "2" / "outputs", "y") == 3
    assert values.load(step / "0" / "outputs", "y") == 1


def test_a_file_that_another_could_have_written_is_not_unpickled(writer, tmp_path):
    step = tmp_path / "fit"
    end(writer(step), 0, y=pickle.PickleBuffer, z=(1,))
    os.chmod(pack.values_file(step, 1), 0o666)
    with pytest.raises(values.ValueFileError, match="another user"):
        values.load(step / "0" / "outputs", "z")


def test_folders_of_other_steps_are_of_no_pack(tmp_path):
    (tmp_path / "fit" / "0").mkdir(parents=True)
    assert pack.of(tmp_path / "fit" / "0") is None
    assert values.read_index(tmp_path / "fit" / "0" / "outputs") == {}
    assert pack.log(tmp_path / "fit", "stdout.log") is None


def test_metrics_of_a_point_are_those_lines_of_the_common_file(writer, tmp_path):
    step = tmp_path / "fit"
    end(writer(step), 1)
    lines = ['{"at": "t", "of_point": 1, "a": 1}', '{"at": "t", "of_point": 11, "a": 2}', '{"at": "u", "of_point": 1, "b": 3}']
    (step / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert pack.log(step / "1", "metrics.jsonl") == '{"at": "t", "a": 1}\n{"at": "u", "b": 3}\n'
