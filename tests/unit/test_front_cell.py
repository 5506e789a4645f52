"""The cells of the kernel ``kale``: which lines are Kale's, what is the kernel's, and Tab after them."""

import pytest

from kale_magic.dsl.options import HelpRequested
from kale_magic.errors import UsageError
from kale_magic.kernels import front_words as words
from kale_magic.kernels.front_cell import line_at, read_cell, read_command, stray, without_commands


def names(cell):
    return [(command.text, command.line) for command in cell.commands]


def test_lines_at_the_top_are_kales_and_the_rest_keeps_its_line_numbers():
    cell = read_cell("# look\n%kale_attach run/a --write\n\n%kale status\nx = 1\n%kale_detach\n")
    assert names(cell) == [("%kale_attach", "run/a --write"), ("%kale_status", "")]
    assert cell.rest == "\n\n\n\nx = 1\n%kale_detach\n"
    assert cell.has_rest
    assert not cell.takes_all
    assert stray(cell.rest, words.NAMES).number == 5


@pytest.mark.parametrize("code", ["", "x = 1", "x = 1\n%kale_attach a", "%matplotlib inline", "%%bash\n%kale_tasks", "%kalendar", "# only", "print('''\n%kale_tasks\n''')"])
def test_cell_that_does_not_begin_with_kales_lines_is_untouched(code):
    cell = read_cell(code)
    assert cell.commands == ()
    assert cell.rest == code


@pytest.mark.parametrize("above", ["", "\n\n", "# why\n\n", "%kale_tasks\n# and\n"])
def test_cell_magic_takes_what_is_below_it_whatever_that_is(above):
    cell = read_cell(f"{above}%%kale_on fit[metal=Al]\n%kale_tasks\n%%bash\nls")
    assert cell.commands[-1].text == "%%kale_on"
    assert cell.commands[-1].line == "fit[metal=Al]"
    assert cell.rest == "\n" * (above.count("\n") + 1) + "%kale_tasks\n%%bash\nls"
    assert cell.takes_all
    assert not cell.has_rest


@pytest.mark.parametrize("line", ["%kale_attach?", "?%kale_attach", "%kale_attach??", "%%kale_on?", "%kale?", "  %kale_tasks? "])
def test_question_mark_asks_for_help(line):
    command = read_command(line)
    assert command.is_question
    assert command.text.lstrip("%").removeprefix("kale_") in words.help_on(command)


def test_stray_is_a_command_only_and_at_the_margin_only():
    assert stray("\nx\n%kale_pull y\n  %kale_detach\n%timeit 1", words.NAMES) is None


@pytest.mark.parametrize(
    ("code", "cursor", "is_attached", "typed"),
    [
        ("%kale_at", 8, True, "%kale_at"),
        ("%k", 2, True, "%k"),
        ("%", 1, True, None),
        ("%", 1, False, "%"),
        ("%%", 2, False, "%%"),
        ("x", 1, False, None),
        ("", 0, False, None),
        ("# c\n%kale_attach ru", 19, True, "%kale_attach ru"),
        ("%kale_tasks\n%kale_st", 20, True, "%kale_st"),
        ("%kale_tasks\nx.", 14, True, None),
        ("x\n%kale_t", 9, True, None),
        ("%%kale_on a\n%kale_t", 19, True, None),
        ("%kale_attach a b", 14, True, "%kale_attach a"),
        ("%matplotlib", 5, False, None),
    ],
)
def test_cursor_on_a_line_of_kales(code, cursor, is_attached, typed):
    found = line_at(code, cursor, is_attached=is_attached)
    assert (found[0] if found else None) == typed


def test_positions_in_the_rest_stay_when_the_commands_are_taken_out():
    code = "# ä\n%%kale_on b\nim"
    assert without_commands(code) == "   \n           \nim"
    assert without_commands("x.") == "x."


# -- words


def parse(line):
    return words.parse(read_command(line))


def test_words_of_each_command():
    found = parse("%kale_attach run-1/fit[metal='Al Mg'] --write --timeout 5 --host login")
    assert (found.step, found.write, found.main, found.timeout, found.host) == ("run-1/fit[metal='Al Mg']", True, False, 5.0, "login")
    assert parse("%%kale_on * --timeout 3").step == "*"
    assert parse("%%kale_attach fit").step == "fit"
    assert parse("%kale_detach").step is None
    assert parse("%kale tasks --host h").host == "h"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("%kale_attach", "STEP is missing"),
        ("%kale_attach a b", "a word too many"),
        ("%kale_attach a --wirte", "Did you mean --write?"),
        ("%kale_attach a --write --main", "exclude each other"),
        ("%kale_attach a --timeout soon", "not a number of seconds"),
        ("%kale_attch a", "Did you mean %kale_attach?"),
        ("%kale_frobnicate", "%kale lists what there is"),
        ("%kale_pull a", "%load_ext kale_magic"),
        ("%kale_on a", "is written %%kale_on"),
        ("%%kale_tasks", "is written %kale_tasks"),
        ("%%kale_on", "STEP is missing"),
    ],
)
def test_mistake_is_one_sentence_with_the_way_out(line, said):
    with pytest.raises(UsageError) as failed:
        parse(line)
    assert said in str(failed.value)
    assert "\n" not in str(failed.value)


@pytest.mark.parametrize("name", words.COMMANDS)
def test_every_command_has_help(name):
    with pytest.raises(HelpRequested) as asked:
        parse(f"{words.written(name)} -h")
    assert str(asked.value).startswith(words.written(name))
    assert words.written(name) in words.overview()


def test_extensions_own_commands_may_be_for_the_attached_kernel():
    assert words.is_kernels_own(read_command("%kale_pull a x"))
    assert not words.is_kernels_own(read_command("%kale_status"))
    assert not words.is_kernels_own(read_command("%kale_attch a"))


@pytest.mark.parametrize(
    ("typed", "matches"),
    [
        ("%", ["%kale_tasks", "%kale_attach", "%kale_detach", "%kale_continue", "%kale_status", "%%kale_on"]),
        ("%kale_a", ["%kale_attach"]),
        ("%%", ["%%kale_on"]),
        ("%kale att", ["attach"]),
        ("%kale_attach m", ["md"]),
        ("%kale_attach r/", ["r/md", "r/s[1]"]),
        ("%kale_attach md --w", ["--write"]),
        ("%kale_attach md ", ["--write", "--main", "--timeout", "--host"]),
        ("%kale_attach md --write ", ["--main", "--timeout", "--host"]),
        ("%kale_attach md --timeout ", []),
        ("%%kale_on r/s", ["r/s[1]"]),
        ("%kale_status ", []),
        ("%kale_pull ", []),
        ("%kale_nonsense ", []),
    ],
)
def test_tab(typed, matches):
    found, length = words.complete(typed, ["md", "r/md", "r/s[1]"])
    assert found == matches
    assert typed.endswith(typed[len(typed) - length :])
    assert words.wants_step(typed) == typed.startswith(("%kale_attach ", "%%kale_on "))
