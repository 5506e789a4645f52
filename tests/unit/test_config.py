"""Settings: defaults, file, variables, and what is refused."""

import pytest

from kale_magic import config
from kale_magic.errors import ConfigError


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("KALE_HOME", str(tmp_path))
    return tmp_path


def test_defaults_are_below_kale_home(home):
    settings = config.load({})
    assert settings.state_dir == home
    assert settings.database == home / "kale.db"
    assert settings.socket == settings.socket_dir / "m"
    assert (settings.idle_stop_s, settings.cpus) == (900.0, None)


def test_variables_win_over_the_file(home):
    (home / "config.toml").write_text("[manager]\nidle_stop_s = 60\n[local]\ncpus = 3\nmemory = '4GB'\n")
    settings = config.load({"KALE_IDLE_S": "5.5"})
    assert (settings.idle_stop_s, settings.cpus, settings.memory_bytes) == (5.5, 3, 4 << 30)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[manager]\nidle = 1\n", r"manager\.idle is no setting\. Known in \[manager\]: host, idle_stop_s, keep_events"),
        ("[pbs]\nx = 1\n", r"pbs\.x is no setting\. Known sections: manager, local, slurm, container, open"),
        ("colour = 1\n", r"colour\.colour is no setting"),
        ("[manager\n", "is not TOML"),
        ("[manager]\nidle_stop_s = 'soon'\n", r"manager\.idle_stop_s = 'soon' is not a usable value"),
        ("[local]\nmemory = '4 apples'\n", r"local\.memory = '4 apples' is not a usable value"),
        ("[local]\ncpus = -1\n", r"local\.cpus = -1 is not a usable value"),
    ],
)
def test_mistakes_in_the_file_are_named(home, text, words):
    (home / "config.toml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        config.load({})


def test_template_is_below_the_state_folder_or_where_the_variable_says(home):
    (home / "config.toml").write_text("[open]\ntemplate = 'mine.ipynb'\n")
    assert config.load({}).open_template == home / "mine.ipynb"
    assert str(config.load({"KALE_OPEN_TEMPLATE": "/t/x.ipynb"}).open_template) == "/t/x.ipynb"
    (home / "config.toml").write_text("[open]\ntemplate = 3\n")
    with pytest.raises(ConfigError, match=r"open\.template = 3 is no file"):
        config.load({})


def test_mistakes_in_variables_are_named(home):
    with pytest.raises(ConfigError, match="KALE_CPUS = 'many' is not a usable value"):
        config.load({"KALE_CPUS": "many"})


def test_a_folder_that_cannot_be_made_is_said_in_a_sentence(home, monkeypatch):
    (home / "file").write_text("")
    monkeypatch.setenv("KALE_HOME", str(home / "file" / "below"))
    with pytest.raises(ConfigError, match="Kale has no place for its files: the folder .*file/below can't be made"):
        config.load({})


def test_login_host_of_the_manager_is_a_name(home):
    (home / "config.toml").write_text("[manager]\nhost = 'login'\n[hosts.far]\nvenvs = '/scratch/kale'\n")
    assert config.load({}).manager_host == "login"
    assert config.load({"KALE_MANAGER_HOST": ""}).manager_host == ""
    assert config.load({}).hosts["far"].venvs == "/scratch/kale"
    for bad in ("-oProxyCommand=x", "a b", "a;b"):
        with pytest.raises(ConfigError, match="is no name of a host"):
            config.load({"KALE_MANAGER_HOST": bad})
