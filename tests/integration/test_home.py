"""``~`` is the home directory, wherever a path is a setting."""

import json
import os
import pwd

import pytest

import batchrun


@pytest.fixture
def home(tmp_path, chat):
    """A home directory with rows and a key in it."""
    folder = tmp_path / "home"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "rows.jsonl").write_text(json.dumps(chat(0)) + "\n")
    (folder / "key").write_text("sk-1\n")
    (folder / "schema.json").write_text('{"type": "object"}')
    (folder / "c.toml").write_text('[request]\nmodel = "m"\n')
    return folder


@pytest.fixture
def home_cli(cli, home):
    """The command with that home."""

    def run(*arguments, **more):
        return cli(*arguments, env={"HOME": str(home)} | more)

    run.folder = cli.folder
    return run


def test_in_flags(home_cli, simulator, home):
    """Input files, globs, output, checkpoint, key file and config: all are found at home."""
    flags = ("-o", "~/run", "--checkpoint=~/state", "-c", "~/c.toml", "--api-key-file", "~/key")
    url = simulator().base_url
    done = home_cli("run", "~/data/*.jsonl", *flags, "--base-url", url, "--no-progress")
    assert done.code == 0, done.err
    assert (home / "run" / "summary.json").exists() and (home / "state" / "journal.db").exists()
    assert not (home_cli.folder / "~").exists()
    for command in ("verify", "status"):
        assert home_cli(command, "~/run", "--checkpoint=~/state").code == 0
    assert home_cli("export", "~/run", "-o", "~/out.csv", "--checkpoint=~/state").code == 0
    assert (home / "out.csv").exists()
    against = home_cli("verify", "~/run", "--checkpoint=~/state", "--against", "~/data/rows.jsonl")
    assert against.code == 0, against.err


def test_in_the_config_file(home_cli, simulator, home):
    """There too, while other paths are relative to the file."""
    (home_cli.folder / "sub").mkdir()
    (home_cli.folder / "sub" / "c.toml").write_text(
        f"""
        [input]
        files = ["~/data/rows.jsonl", "more.jsonl"]
        [output]
        dir = "~/run"
        [request]
        model = "m"
        schema = "~/schema.json"
        [[endpoint]]
        base_url = "{simulator().base_url}"
        api_key_file = "~/key"
        [[endpoint]]
        base_url = "{simulator().base_url}"
        api_key_file = "~/key"
        """
    )
    (home_cli.folder / "sub" / "more.jsonl").write_bytes((home / "data/rows.jsonl").read_bytes())
    done = home_cli("run", "-c", "sub/c.toml", "--no-progress", "--json")
    assert done.code == 0, done.err
    assert done.json["rows"]["ok"] == 2
    assert done.json["settings"]["output.dir"] == str(home / "run")


def test_from_a_program(simulator, home, monkeypatch, tmp_path):
    """The Python functions take the same paths."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(home))
    url = simulator().base_url
    done = batchrun.run("~/data/rows.jsonl", output="~/run", model="m", base_url=url)
    assert done.status == "complete" and (home / "run" / "summary.json").exists()


@pytest.mark.parametrize("in_config", [False, True])
@pytest.mark.parametrize("flag", ["dir", "checkpoint"])
def test_what_an_earlier_version_made_is_named(home_cli, home, in_config, flag):
    """A literal ``~`` folder is not passed over: both places are named, and nothing is made."""
    (home_cli.folder / "~" / "old").mkdir(parents=True)
    text = f'[output]\n{flag} = "~/old"\n[input]\nfiles = ["~/data/rows.jsonl"]\n'
    (home_cli.folder / "c.toml").write_text(text + "[request]\nmodel='m'\n")
    given = ("-c", "c.toml")
    if not in_config:
        option = "-o" if flag == "dir" else "--checkpoint"
        given = ("~/data/rows.jsonl", "--model", "m", option, "~/old")
    done = home_cli("run", *given, *(("-o", "new") if flag == "checkpoint" else ()))
    assert done.code == 2, done.err
    assert str(home / "old") in done.err and "./~/old" in done.err
    assert not (home / "old").exists()


def test_a_literal_folder_can_be_named(home_cli, simulator):
    """Written with ``./`` it is the folder of that name."""
    url = simulator().base_url
    flags = ("--model", "m", "--base-url", url, "--no-progress")
    assert home_cli("run", "~/data/rows.jsonl", "-o", "./~/old", *flags).code == 0
    assert (home_cli.folder / "~" / "old" / "summary.json").exists()
    assert home_cli("verify", "./~/old").code == 0
    assert home_cli("verify", "~/old").code == 2


def test_another_users_home(home_cli):
    """``~user`` is that user's; one who does not exist is said."""
    me = pwd.getpwuid(os.getuid())
    found = home_cli("validate", f"~{me.pw_name}/no-such-rows.jsonl", "--model", "m")
    assert found.code == 2 and f"{me.pw_dir}/no-such-rows.jsonl" in found.err
    unknown = home_cli("validate", "~no-such-user/rows.jsonl", "--model", "m")
    assert unknown.code == 2 and "there is no user 'no-such-user'" in unknown.err
    assert "./~no-such-user/rows.jsonl" in unknown.err


def test_without_a_home(home_cli):
    """Where HOME is not set nobody guesses."""
    for command in (("validate", "~/rows.jsonl", "--model", "m"), ("verify", "~/run")):
        done = home_cli(*command, HOME="")
        assert done.code == 2 and "HOME is not set" in done.err


def test_addresses_and_other_paths_stay(monkeypatch):
    """Only what begins with ``~`` changes."""
    from batchrun.adapters.storage.home import at_home

    monkeypatch.setenv("HOME", "/home/me/")
    same = ["a~b", "./~/x", "s3://bucket/~/x", "/~", "-", "", "file:///~/x"]
    assert [at_home(path) for path in same] == same
    assert at_home("~") == "/home/me/"
    assert at_home("~/") == "/home/me/"
    assert at_home("~//a/b") == "/home/me/a/b"
