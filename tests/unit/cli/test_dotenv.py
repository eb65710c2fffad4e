"""What is taken of a `.env`: settings alone, and no place to which a key of others would go."""

from __future__ import annotations

import pytest

from cli.dotenv import LARGEST, PROXY, TIERS, keys_of, read_dotenv
from tasks.errors import SettingsError
from tasks.settings import Settings, TierSettings

SECRET = "hunter2"  # noqa: S105 - made up


NAMED = Settings(tiers="gpu,h100,cpu", more_tiers=(("h100", TierSettings()),))
KEYS = keys_of("gpu,h100,cpu")


@pytest.fixture
def file(tmp_path):
    return tmp_path / ".env"


def refusal(file, environ=None):
    with pytest.raises(SettingsError) as error:
        read_dotenv(file, environ or {})
    said = str(error.value)
    assert said.isprintable()  # of one line
    assert SECRET not in said
    return said


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("FALLTHROUGH_X=a", "a"),
        ("export FALLTHROUGH_X=a", "a"),
        ("  FALLTHROUGH_X =  a b  ", "a b"),
        ("FALLTHROUGH_X=", ""),
        ("FALLTHROUGH_X=a # a comment", "a"),
        ("FALLTHROUGH_X=# a comment", ""),
        ("FALLTHROUGH_X=http://h/#part", "http://h/#part"),
        ("FALLTHROUGH_X='a # b' # a comment", "a # b"),
        ('FALLTHROUGH_X="a # b"', "a # b"),
        ("FALLTHROUGH_X='a\\nb'", "a\\nb"),
        ('FALLTHROUGH_X="a\\nb\\t\\"c\\" \\\\ \\d"', 'a\nb\t"c" \\ \\d'),
        ("FALLTHROUGH_X=''", ""),
        ("FALLTHROUGH_X=it's", "it's"),
        ("FALLTHROUGH_X=${HOME}$X`x`", "${HOME}$X`x`"),
        ("FALLTHROUGH_X=a=b", "a=b"),
        ("FALLTHROUGH_X=a\r\nFALLTHROUGH_X=b", "b"),
        ("\ufeffFALLTHROUGH_X=ü", "ü"),
    ],
)
def test_a_line_is_read_as_others_read_it(file, line, value):
    file.write_bytes(f"{line}\n".encode())
    assert read_dotenv(file, {}) == {"FALLTHROUGH_X": value}


@pytest.mark.parametrize(
    "line",
    [
        *("", "# FALLTHROUGH_X=a", "PATH=/tmp/evil", "LD_PRELOAD=./evil.so", "X=FALLTHROUGH_X=a"),
        *("fallthrough_x=a", "FALLTHROUGH_X", "MY_FALLTHROUGH_X=a", "FALLTHROUGH_ü=a", "what?"),
        *("FALLTHROUGH_X-Y=a", "XDG_DATA_HOME=/tmp", "PYTHONPATH=.", "\udcff\x00", 'X="'),
    ],
)
def test_what_is_no_setting_is_none_of_our_business(file, line):
    file.write_bytes(line.encode("utf-8", "surrogateescape"))
    assert read_dotenv(file, {}) == {}


def test_the_environment_goes_before_it_even_where_it_is_empty(file):
    file.write_text("FALLTHROUGH_PORT=1\nFALLTHROUGH_HOST=h\nFALLTHROUGH_LOG_LEVEL=INFO\n")
    environ = {"FALLTHROUGH_PORT": "2", "FALLTHROUGH_HOST": ""}
    assert read_dotenv(file, environ) == {"FALLTHROUGH_LOG_LEVEL": "INFO"}


@pytest.mark.parametrize("value", [f'"{SECRET}', f"'{SECRET}", f'"{SECRET}" more', f'"{SECRET}\\"'])
def test_a_quote_that_stays_open_is_told_with_its_line(file, value):
    file.write_text(f"# first\nFALLTHROUGH_GPU_API_KEY={value}\n")
    assert ".env, line 2: FALLTHROUGH_GPU_API_KEY begins with a quote" in refusal(file)


def test_a_nul_cannot_be_part_of_a_setting(file):
    file.write_bytes(f"FALLTHROUGH_X={SECRET}\x00".encode())
    assert ".env, line 1: FALLTHROUGH_X has a NUL" in refusal(file)


def test_no_file_is_no_setting_and_a_folder_is_somebodys_environment(file):
    assert read_dotenv(file, {}) == {}
    file.mkdir()
    assert read_dotenv(file, {}) == {}


def test_what_cannot_be_read_is_told(file, monkeypatch):
    file.write_text("")
    monkeypatch.setattr("pathlib.Path.open", _denied)  # root may read everything
    assert "it cannot be read: Permission denied" in refusal(file)


def _denied(*_):
    raise PermissionError(13, "Permission denied")


def test_what_is_larger_than_any_of_them_is_not_read(file):
    file.write_bytes(b"#" * (LARGEST + 1))
    assert f"it is larger than {LARGEST} bytes" in refusal(file)


def test_every_key_that_is_sent_has_its_url():
    names = {row.variable for row in NAMED.rows()}
    assert {name for name in names if name.endswith("_KEY")} == {*KEYS.values()}
    assert {*KEYS, PROXY} <= names


@pytest.mark.parametrize(("url", "key"), KEYS.items())
def test_a_key_of_the_environment_is_not_sent_where_the_file_says(file, url, key):
    file.write_text(f"{TIERS}=h100,gpu,cpu\n{url}=http://evil.example\n")
    said = refusal(file, {key: SECRET})
    assert f"{url} would be sent {key} of the environment: set both there" in said
    # Nobody's key goes anywhere.
    file.write_text(f"{url}=http://evil.example\n")
    named = {TIERS: "h100"}
    assert f"{url} would be sent {key}" in refusal(file, {key: SECRET, **named})
    assert read_dotenv(file, {key: " ", **named}) == {url: "http://evil.example"}
    assert read_dotenv(file, {key: SECRET, url: "http://mine", **named}) == {}
    file.write_text(f"{url}=http://mine\n{key}=mine\n")
    assert set(read_dotenv(file, named)) == {url, key}


@pytest.mark.parametrize(
    "environ",
    [
        *({key: SECRET} for key in KEYS.values()),
        *({url: f"http://user:{SECRET}@host"} for url in KEYS),
    ],
)
def test_no_proxy_of_the_files_hears_a_secret_of_the_environment(file, environ):
    file.write_text(f"{PROXY}=http://evil.example\n")
    named = {TIERS: "h100"}
    assert f"{PROXY} would be sent {next(iter(environ))}" in refusal(file, {**environ, **named})
    assert read_dotenv(file, {}) == {PROXY: "http://evil.example"}
