"""The commands of docs/providers.md run as they stand, and the doctor says what the page shows."""

import json
import re
from pathlib import Path

import pytest

from batchrun.core.settings.providers import BY_NAME

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "providers.md").read_text("utf-8")
KEYS = {key.name: "key-of-the-page" for provider in BY_NAME.values() for key in provider.keys}


def blocks(kind):
    """The fenced blocks of a kind."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def shell(cli):
    """Runs a script against an endpoint in the place of every provider."""

    def run(script, base_url):
        script = re.sub(r" --base-url \S+", "", script)
        script = re.sub(r"(--provider \S+)", rf"\1 --base-url {base_url}", script)
        return cli.shell(script, KEYS | {"TEAM_KEY": "key-of-the-team"})

    return run


@pytest.mark.slow
def test_the_page_runs(cli, shell, scripted, answer, jsonl):
    """Every run that it shows ends well, with the key that it speaks of."""
    endpoint = scripted(lambda *_: (200, {}, answer()))
    jsonl(2).rename(cli.folder / "rows.jsonl")
    (cli.folder / "key.txt").write_text("key-of-the-file\n")
    script = "set -e\n" + "".join(blocks("sh run"))
    done = shell(script, endpoint.base_url)
    assert done.returncode == 0, done.stderr
    folders = re.findall(r" -o (\S+)", script)
    assert len(folders) == len(set(folders)) == 6
    shown = {}
    for path, headers, body in endpoint.requests:
        assert path == "/v1/chat/completions"
        shown.setdefault(body["model"], set()).add(headers.get("Authorization"))
    for folder in folders:
        summary = json.loads((cli.folder / folder / "summary.json").read_text("utf-8"))
        assert summary["rows"]["ok"] == 2, folder
    assert shown["deepseek-chat"] == {"Bearer key-of-the-team", "Bearer key-of-the-file"}
    assert shown["llama3.2"] == {None}
    assert endpoint.requests[-1][2]["extra_body"]["google"]["thinking_config"]


def test_the_doctor_says_what_the_page_shows(shell, scripted):
    """Line by line, but for the seconds."""
    listed = [{"id": name} for name in ("llama-3.1-8b-instant", "whisper-large", "gpt-oss")]
    missing = {"message": "The model `llama-3.1-8b` does not exist.", "code": "model_not_found"}
    endpoint = scripted(
        lambda body, *_: (404, {}, {"error": missing}) if body else (200, {}, {"data": listed})
    )
    (command,), (_, shown) = blocks("sh doctor"), blocks("text")
    done = shell(command, endpoint.base_url)
    assert done.returncode == 1, done.stderr
    said = done.stdout.replace(endpoint.base_url, BY_NAME["groq"].base_url)
    said = said.replace(endpoint.base_url.removesuffix("/v1"), "https://api.groq.com")
    seconds = re.compile(r"\d+\.\d\d s")
    assert seconds.sub("N s", said) == seconds.sub("N s", shown)


def test_a_stopped_run_ends_as_the_page_shows(shell, cli, scripted, jsonl):
    """What happened, what to change, the check, and the corrected command."""
    listed = [{"id": name} for name in ("llama-3.1-8b-instant", "whisper-large", "gpt-oss")]
    missing = {"message": "The model `llama-3.1-8b` does not exist.", "code": "model_not_found"}
    endpoint = scripted(
        lambda body, *_: (404, {}, {"error": missing}) if body else (200, {}, {"data": listed})
    )
    (shown,) = blocks("text stop")
    jsonl(3).rename(cli.folder / "rows.jsonl")
    script = "batchrun run rows.jsonl -o run --provider groq --model llama-3.1-8b"
    done = shell(script, endpoint.base_url)
    assert done.returncode == 3, done.stderr
    said = re.sub(r" --base-url \S+", "", done.stderr)
    for line in shown.splitlines():
        assert line in said.splitlines(), said


def test_the_line_about_limits_is_what_is_shown():
    """The line of a status, from what OpenAI would tell."""
    from batchrun.core.reply.limit_headers import read
    from batchrun.views.limits import format_limits

    headers = {
        "x-ratelimit-limit-requests": "10000",
        "x-ratelimit-remaining-requests": "9990",
        "x-ratelimit-limit-tokens": "2000000",
        "x-ratelimit-remaining-tokens": "1854200",
    }
    windows = [window.public() for window in read(headers, wall_s=0.0)]
    assert f"{format_limits(windows)}\n" == blocks("text")[0]


def test_the_page_names_every_provider():
    """The table of what to choose leaves nobody out."""
    table = PAGE.partition("| you have |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`([\w-]+)`", table)) == set(BY_NAME)


def test_the_configurations_are_valid():
    """Every TOML block resolves."""
    from batchrun.core.settings.resolve import from_toml, lay_over, resolve

    found = blocks("toml")
    assert len(found) == 2
    for text in found:
        given = {"input.files": ["a"], "output.dir": "b"}
        raw, _ = lay_over(from_toml(text, path="page"), {}, given)
        endpoint = resolve(raw).endpoint
        assert endpoint.provider in BY_NAME
