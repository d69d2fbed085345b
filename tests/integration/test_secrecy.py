"""Credentials are sent to the endpoint and end up nowhere else."""

import base64
import html
import json
import re
import shlex
import shutil
import string
from urllib.parse import quote, quote_plus

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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
    # A 400 that says so is a refused key as well.
    assert done.code == (1 if status == 500 else 3), done.err
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
    assert done.json["settings"]["endpoint"][0]["headers"] == ["X-Other", "X-Token"]
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


# Every secret is two words with something between them that encoders treat differently: whatever
# is left of one is found by its words.
WORDS = st.text(string.ascii_letters + string.digits, min_size=8, max_size=12).map("Zx".__add__)
BETWEEN = st.text("+/=&?%'<>`~!#$*^|{}:@,;.-_\\\"", max_size=3)
SECRETS = st.fixed_dictionaries(
    {
        place: st.tuples(WORDS, BETWEEN, WORDS)
        for place in ("key", "config header", "flag header", "query", "proxy", "basic")
    }
)


def _net(text):
    """JSON as .NET writes it."""
    escaped = {c: f"\\u{ord(c):04X}" for c in "<>&'+`"}
    return "".join(escaped.get(c, c) for c in json.dumps({"error": {"message": text}}))


def _php(text):
    """JSON as PHP writes it."""
    return json.dumps({"error": {"message": text}}).replace("/", "\\/")


def _lower_hex(text):
    return re.sub("%..", lambda match: match[0].lower(), text)


EVENTS = {"Content-Type": "text/event-stream"}
ECHOES = [
    lambda text: (400, {}, _net(text)),
    lambda text: (400, {}, _php(text)),
    lambda text: (500, {}, json.dumps({"error": {"message": text, "code": text, "type": text}})),
    lambda text: (422, {}, json.dumps({"detail": quote(text, safe="")})),
    lambda text: (422, {}, json.dumps({"detail": _lower_hex(quote(text))})),
    lambda text: (422, {}, json.dumps({"detail": quote_plus(text)})),
    lambda text: (502, {}, f"<html><p>{html.escape(text)}</p></html>"),
    lambda text: (400, {}, text),
    lambda text: (200, {}, text),
    lambda text: (503, {"X-Request-Id": text, "Retry-After": text}, "{}"),
    lambda text: (200, {}, _completion(text)),
    lambda text: (200, EVENTS, _events({"error": {"message": text}})),
    lambda text: (200, EVENTS, _events(*_deltas(text), end=True)),
    lambda text: (200, EVENTS, _events(*_deltas(text), end=False)),
    lambda text: (200, EVENTS, f"data: {text}\n\n"),
]  # fmt: skip
LAST = [
    lambda text: (401, {}, json.dumps({"error": {"message": f"Incorrect API key: {text}"}})),
    lambda text: (302, {"Location": f"http://elsewhere.example/{quote(text)}?next={text}"}, ""),
    lambda text: (407, {"Proxy-Authenticate": text}, text),
    lambda text: (403, {}, _php(text)),
]


def _completion(text):
    message = {"role": "assistant", "content": text, "reasoning_content": text}
    return json.dumps({"id": text, "model": text, "choices": [{"message": message}]})


def _deltas(text):
    for start in range(0, len(text), 7):
        yield {"id": text, "choices": [{"index": 0, "delta": {"content": text[start : start + 7]}}]}


def _events(*chunks, end=True):
    events = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    return "".join([*events, *(["data: [DONE]\n\n"] if end else [])])


@settings(
    max_examples=4, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(
    secrets=SECRETS,
    source=st.sampled_from(["env", "file", "command"]),
    last=st.sampled_from(LAST),
    stream=st.booleans(),
)
def test_nothing_echoed_is_kept(cli, scripted, jsonl, secrets, source, last, stream):
    """Whatever a server repeats of any credential, in whatever form, no file and no terminal
    holds: keys of all sources, headers, the query, the proxy's password.
    """
    said = {place: "".join(parts) for place, parts in secrets.items()}
    renewed = said["key"] + "Renewed"

    def reply(body, headers, _nth):
        values = [
            headers[n] or "" for n in ("Authorization", "X-A-Key", "X-B", "Proxy-Authorization")
        ]
        text = " | ".join([*said.values(), renewed, *values])
        number = int(body["messages"][0]["content"].split()[1])
        echo = ECHOES[number] if number < len(ECHOES) else last
        status, more, content = echo(text)
        return (
            status,
            {name: value.replace("\n", "") for name, value in more.items()},
            content.encode(),
        )

    endpoint = scripted(reply)
    shutil.rmtree(cli.folder)
    cli.folder.mkdir()
    hidden = cli.folder.parent
    (hidden / "key").write_text(said["key"])
    header = json.dumps(said["config header"])
    (hidden / "c.toml").write_text(f'[[endpoint]]\nheaders = {{ "X-A-Key" = {header} }}\n')
    port = endpoint.base_url.rpartition(":")[2].removesuffix("/v1")
    proxy = f"http://user:{quote(said['proxy'], safe='')}@127.0.0.1:{port}"
    program = f"test -e {hidden}/ran && cat {hidden}/new || cat {hidden}/key; touch {hidden}/ran"
    (hidden / "new").write_text(renewed)
    (hidden / "ran").unlink(missing_ok=True)
    basic = base64.b64encode(f"me:{said['basic']}".encode()).decode()
    flags = {
        "env": (),
        "file": ("--api-key-file", hidden / "key"),
        "command": ("--api-key-command", shlex.join(["sh", "-c", program, said["key"]])),
    }
    done = cli.run(
        *("-c", hidden / "c.toml", jsonl(len(ECHOES) + 1), "-o", "run", "--concurrency", 1),
        *("--base-url", f"http://api.example/v1?code={quote(said['query'], safe='')}"),
        *("--header", f"X-Auth-B: {said['flag header']}", "--header", f"X-Token: Basic {basic}"),
        *(*flags[source], "--max-attempts", 1, "--json", "--stream" if stream else "--no-stream"),
        env={"HTTP_PROXY": proxy} | ({"OPENAI_API_KEY": said["key"]} if source == "env" else {}),
    )
    assert done.code == 3, done.err
    sent = [name for _, headers, _ in endpoint.requests for name in headers.values()]
    assert f"Bearer {said['key']}" in sent  # it did reach the server
    told = [done, cli("status", "run", "--json"), cli("export", "run", "-o", "out.jsonl")]
    places = {"the terminal": "".join(end.out + end.err for end in told).encode()}
    for path in cli.folder.rglob("*"):
        if path.is_file():
            places[path] = path.read_bytes()
            if path.suffix == ".parquet":
                places[path] += str(pq.read_table(path, partitioning=None).to_pylist()).encode()
    assert any(b"[redacted]" in data for data in places.values())
    for place, parts in secrets.items():
        for word in (parts[0], parts[2]):
            found = [str(where) for where, data in places.items() if word.encode() in data]
            assert not found, f"a piece of the secret of the {place} is in {found}: {parts}"
