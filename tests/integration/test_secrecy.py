"""Credentials are sent to the endpoint and end up nowhere else."""

import json

import pyarrow.parquet as pq
import pytest

KEY = "sk-SECRET-4f9d2c7b1a"
TOKEN = "hdr-SECRET-77e01b"
DOTENV_KEY = "sk-SECRET-dotenv-55"


def _assert_nowhere(cli, *ended):
    """No file under the working directory and nothing that was said holds a credential."""
    said = "".join(done.out + done.err for done in ended)
    assert "SECRET" not in said, said
    for path in sorted(cli.folder.rglob("*")):
        if path.is_file() and path.name != ".env":
            assert b"SECRET" not in path.read_bytes(), path
            if path.suffix == ".parquet":
                assert "SECRET" not in str(pq.read_table(path, partitioning=None).to_pylist()), path


@pytest.mark.parametrize("status", [401, 403, 400, 500])
def test_a_reply_that_repeats_the_credentials(cli, scripted, answer, jsonl, status):
    """Servers show keys in their errors: what is stored or printed of them does not."""

    def reply(_body, headers, nth):
        echo = f"Incorrect API key {headers['Authorization']} / {headers['X-Token']} provided"
        if nth % 2 or status in (401, 403):
            return (
                status,
                {"x-request-id": headers["X-Token"]},
                {"error": {"message": echo, "code": KEY}},
            )
        return 200, {}, answer("ok", system_fingerprint=echo)

    endpoint = scripted(reply)
    command = (
        *(jsonl(4), "-o", "run", "--base-url", endpoint.base_url, "--max-attempts", 1),
        *("--header", f"X-Token: {TOKEN}", "--concurrency", 1),
    )
    done = cli.run(*command, env={"OPENAI_API_KEY": KEY})
    assert done.code == (3 if status in (401, 403) else 1), done.err
    assert endpoint.requests[0][1]["Authorization"] == f"Bearer {KEY}"
    assert endpoint.requests[0][1]["X-Token"] == TOKEN
    status_said = cli("status", "run", "--json")
    _assert_nowhere(cli, done, status_said, cli("verify", "run"))


def test_a_good_run_keeps_no_credential(cli, simulator, jsonl):
    """Key, header and .env leave no trace in files, messages or the printed commands."""
    endpoint = simulator(api_key=KEY)
    done = cli.run(
        *(jsonl(3), "-o", "run", "--json", "--base-url", endpoint.base_url),
        *("--header", f"X-Token: {TOKEN}", f"--header=X-Other: {TOKEN}"),
        env={"OPENAI_API_KEY": KEY},
    )
    assert done.code == 0, done.err
    assert done.json["settings"]["endpoint.headers"] == ["X-Other", "X-Token"]
    _assert_nowhere(cli, done, cli("status", "run"), cli("status", "run", "--json"))


def test_the_printed_command_holds_no_credential(cli, scripted, jsonl):
    """The command that goes on names headers without their values."""
    endpoint = scripted(lambda *_: (401, {}, {"error": {"message": "no"}}))
    done = cli.run(
        *(jsonl(3), "-o", "run", "--base-url", endpoint.base_url),
        *("--header", f"X-Token: {TOKEN}", f"--header=X-Other:{TOKEN}"),
        env={"OPENAI_API_KEY": KEY},
    )
    assert done.code == 3
    assert "X-Token: ..." in done.err and "X-Other: ..." in done.err
    _assert_nowhere(cli, done)


@pytest.mark.parametrize(
    "flags",
    [
        ("--header", TOKEN),
        ("--header", f"X: {TOKEN}\nY: 1"),
        ("--base-url", f"http://user:{TOKEN}@127.0.0.1:9/v1"),
    ],
)
def test_a_refused_credential_is_not_repeated(cli, jsonl, flags):
    """A header or URL that cannot be used is refused without being shown."""
    done = cli.run(jsonl(1), "-o", "run", "--json", *flags, env={"OPENAI_API_KEY": "k"})
    assert done.code == 2
    _assert_nowhere(cli, done)


def test_a_refused_key_is_not_repeated(cli, jsonl):
    """A key of two lines is refused by the name of its variable."""
    done = cli.run(
        jsonl(1),
        "-o",
        "run",
        "--base-url",
        "http://127.0.0.1:9",
        env={"OPENAI_API_KEY": f"{KEY}\nb"},
    )
    assert done.code == 2
    assert "OPENAI_API_KEY" in done.err
    _assert_nowhere(cli, done)


def test_a_key_in_the_query_is_sent_and_not_stored(cli, scripted, answer, jsonl):
    """A base URL may carry a key in its query; it is shown without the value."""
    endpoint = scripted(lambda *_: (200, {}, answer()))
    done = cli.run(jsonl(1), "-o", "run", "--json", "--base-url", f"{endpoint.base_url}?key={KEY}")
    assert done.code == 0, done.err
    assert endpoint.requests[0][0].endswith(f"/chat/completions?key={KEY}")
    _assert_nowhere(cli, done)


def test_the_key_comes_from_the_variable_that_is_named(cli, scripted, answer, jsonl):
    """--api-key-env, and .env below the environment, name the key; none at all sends none."""
    endpoint = scripted(lambda *_: (200, {}, answer()))
    (cli.folder / ".env").write_text(f"OPENAI_API_KEY={DOTENV_KEY}\nMY_KEY=from-dotenv\n")
    cases = [
        ((), {}, f"Bearer {DOTENV_KEY}"),
        ((), {"OPENAI_API_KEY": KEY}, f"Bearer {KEY}"),
        ((), {"OPENAI_API_KEY": ""}, f"Bearer {DOTENV_KEY}"),
        (("--api-key-env", "MY_KEY"), {}, "Bearer from-dotenv"),
        (("--api-key-env", "UNSET"), {}, None),
        (("--header", "Authorization: Basic xyz"), {"OPENAI_API_KEY": KEY}, "Basic xyz"),
    ]
    source = jsonl(1)
    for number, (flags, env, sent) in enumerate(cases):
        done = cli.run(
            source, "-o", f"run-{number}", "--base-url", endpoint.base_url, *flags, env=env
        )
        assert done.code == 0, done.err
        assert endpoint.requests[-1][1].get("Authorization") == sent
        _assert_nowhere(cli, done)


def test_the_default_endpoint_needs_a_key(cli, jsonl):
    """Without a key or another endpoint nothing is tried, and the message names the variable."""
    done = cli.run(jsonl(1), "-o", "run")
    assert done.code == 2
    assert "OPENAI_API_KEY" in done.err and "--base-url" in done.err
    assert not (cli.folder / "run").exists()
    assert json.loads(cli.run(jsonl(1), "-o", "run", "--json").out)["exit_code"] == 2
