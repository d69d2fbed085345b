"""How a run ends that a wrong setting stopped: what to change, a check, the command to type."""

import json
import shlex
import socket

import pytest

from batchrun.core.text.pasted_keys import key_flaw
from batchrun.core.verdict import next_steps

KEY = "sk-abcdefghijklmnop"
LISTED = {"data": [{"id": name} for name in ("llama-3.1-8b-instant", "qwen3-32b")]}


def refused(status, message, code=None):
    """A body with an error, behind its status."""
    return status, {}, {"error": {"message": message, "code": code}}


def ended(body, finish_reason):
    """The same completion, ended for this reason."""
    body["choices"][0]["finish_reason"] = finish_reason
    return body


def ending(done):
    """The lines of a run's end by their first words."""
    lines = (line.partition(": ") for line in done.err.splitlines())
    found = {first: rest for first, _, rest in lines}
    again = [rest for first, rest in found.items() if first.startswith("then, ")]
    return found | {"again": again[0] if again else None}


@pytest.fixture
def stopped(cli, jsonl):
    """Runs ten rows, expects a stop, and returns its last lines."""

    def run(*arguments, env=None, code=3, rows=10):
        flags = ("-o", "out", "--no-progress", "--concurrency", "2")
        arguments = (*flags, "--model", "m", *arguments) if "--model" not in arguments else (
            *flags, *arguments
        )  # fmt: skip
        done = cli("run", jsonl(rows), *arguments, env=env)
        assert done.code in (code, 1), done.err
        assert KEY not in done.err
        return ending(done) | {"all": done.err}

    return run


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (f'"{KEY}"', "is in quotation marks"),
        (f"'{KEY}'", "is in quotation marks"),
        (f"\u201c{KEY}\u201d", "not ASCII"),
        (f"Bearer {KEY}", "begins with `Bearer`"),
        (f"bearer  {KEY}", "begins with `Bearer`"),
        (f"OPENAI_API_KEY={KEY}", "name of a variable"),
        (f"export GROQ_API_KEY={KEY}", "name of a variable"),
        (f"Authorization: Bearer {KEY}", "whole header"),
    ],
)
def test_a_key_that_was_pasted_with_more_is_refused_at_once(stopped, scripted, key, said):
    """Nothing is sent with a key that no server can take: exit 2, and what is to be left out."""
    endpoint = scripted(lambda *_: refused(401, "no"))
    found = stopped("--base-url", endpoint.base_url, env={"OPENAI_API_KEY": key}, code=2)
    assert said in found["all"] and "OPENAI_API_KEY" in found["all"]
    assert endpoint.requests == []


def test_a_header_of_its_own_may_hold_anything(stopped, scripted):
    """A key in another header than Authorization may begin with a word: it is sent as it is."""
    endpoint = scripted(lambda *_: refused(401, "no"))
    flags = ("--base-url", endpoint.base_url, "--api-key-header", "X-Auth")
    stopped(*flags, env={"OPENAI_API_KEY": f"Bearer {KEY}"})
    assert endpoint.requests[0][1]["X-Auth"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (KEY, "check the key in the variable OPENAI_API_KEY"),
        (f"{KEY[:5]} {KEY[5:]}", "white space inside"),
        (f'"{KEY}', "quotation mark at one end"),
        ("YOUR_API_KEY", "looks like a placeholder"),
        ("<your key>", "looks like a placeholder"),
        ("sk-...", "looks like a placeholder"),
        ("$MY_KEY", "was not replaced by its value"),
        (None, "OPENAI_API_KEY is not set"),
    ],
)
def test_a_refused_key(stopped, scripted, key, said):
    """What is odd about the key is named, the doctor checks it, and the same command resumes."""
    endpoint = scripted(lambda *_: refused(401, "Incorrect API key provided.", "invalid_api_key"))
    env = {} if key is None else {"OPENAI_API_KEY": key}
    found = stopped("--base-url", endpoint.base_url, env=env)
    assert said in found["to fix"]
    assert found["to check"] == f"batchrun doctor --model m --base-url {endpoint.base_url}"
    assert found["then, to resume"].startswith("batchrun run ")
    assert "held back" not in found["all"]


@pytest.mark.parametrize(
    ("path", "right"), [("", "/v1"), ("/api", "/api/v1"), ("/v1/models", "/v1")]
)
def test_a_wrong_path_is_corrected_in_the_next_command(stopped, scripted, path, right):
    """The base URL that was meant is in the fix, in the check and in the command."""
    endpoint = scripted(lambda *_: (404, {"Content-Type": "text/plain"}, b"404 page not found"))
    host = endpoint.base_url.removesuffix("/v1")
    given = f"{host}/chat/completions" if not path else host + path
    found = stopped("--base-url", given)
    assert found["to fix"] == f"try --base-url {host}{right}"
    for line in ("to check", "then, to resume"):
        words = shlex.split(found[line])
        assert words[words.index("--base-url") + 1] == host + right
        assert words.count("--base-url") == 1


def test_the_corrected_command_works(cli, jsonl, scripted, answer):
    """A model that the server does not know: the command that is printed has the nearest one that
    it lists, and completes the run.
    """

    def reply(body, _headers, _nth):
        if body is None:
            return 200, {}, LISTED
        if body["model"] == "qwen3-32b":
            return 200, {}, answer("yes", model="qwen3-32b")
        return refused(404, f"The model `{body['model']}` does not exist.", "model_not_found")

    endpoint = scripted(reply)
    flags = ("-o", "out", "--no-progress", "--concurrency", "2", "--base-url", endpoint.base_url)
    done = cli("run", jsonl(5), *flags, "--model", "qwen3")
    assert done.code == 3
    found = ending(done)
    assert found["to fix"].startswith("did you mean --model qwen3-32b")
    done = cli(*shlex.split(found["then, to resume"])[1:])
    assert done.code == 0, done.err


@pytest.mark.parametrize(("rows", "code"), [(3, 1), (60, 3)])
def test_a_model_that_rows_name_is_not_put_into_the_command(cli, scripted, rows, code):
    """Where rows choose the model, the nearest is named, and the rows have to be corrected: after
    the guard's stop, and after a run too short for it.
    """

    def reply(body, *_):
        if body is None:
            return 200, {}, LISTED
        return refused(404, f"The model '{body['model']}' was not found", "model_not_found")

    rows = [{"model": "qwen", "messages": [{"role": "user", "content": "x"}]}] * rows
    (cli.folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    url = scripted(reply).base_url
    flags = ("-o", "out", "--no-progress", "--concurrency", "1", "--base-url", url)
    done = cli("run", "rows.jsonl", *flags)
    assert done.code == code
    found = ending(done)
    assert found["to fix"] == "did you mean qwen3-32b?"
    assert "qwen3-32b" not in found["again"] and "--retry-failed" in found["again"]


def test_tls_to_a_plain_port_and_the_other_way_round(stopped, scripted, answer, authority):
    """The scheme that the port speaks is tried out, and put into the command."""
    plain = scripted(lambda *_: (200, {}, answer()))
    wrong = plain.base_url.replace("http:", "https:")
    found = stopped("--base-url", wrong)
    assert found["to fix"] == f"use http: --base-url {plain.base_url}"
    assert plain.base_url in found["again"] and wrong not in found["again"]
    secure = scripted(lambda *_: (200, {}, answer()), authority.server_tls())
    wrong = secure.base_url.replace("https:", "http:")
    found = stopped("--base-url", wrong, "-o", "other", "--max-attempts", "1", rows=60)
    assert found["to fix"] == f"use https: --base-url {secure.base_url}"
    assert "--retry-failed" in found["again"]


def test_a_closed_port_asks_whether_the_server_runs(stopped):
    """A refused connection is said in words, and the check is of the same address."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    found = stopped("--base-url", f"http://127.0.0.1:{port}/v1", "--max-wait", "1")
    assert f"no connection to 127.0.0.1:{port}: nothing listens there" in found["all"]
    assert "Is the server running?" in found["all"] and "Connect call" not in found["all"]
    assert "check that the server runs" in found["to fix"] and str(port) in found["to check"]
    local = ("--provider", "vllm", "--base-url", f"http://127.0.0.1:{port}/v1", "--max-wait", "1")
    assert "`vllm serve MODEL`" in stopped(*local, "-o", "other")["to fix"]


def test_a_parameter_that_the_model_does_not_take(cli, jsonl, scripted, answer):
    """The limit's other name is put into the command, which then sends the failed rows again."""

    def reply(body, *_):
        if body is not None and "max_completion_tokens" in body:
            return 200, {}, answer()
        return refused(
            400,
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
            "'max_completion_tokens' instead.",
            "unsupported_parameter",
        )

    flags = ("-o", "out", "--no-progress", "--base-url", scripted(reply).base_url, "--model", "m")
    done = cli("run", jsonl(60), *flags, "--max-tokens", "5", "--concurrency", "2")
    assert done.code == 3, done.err
    command = ending(done)["then, to resume"]
    assert "--param max_completion_tokens=5" in command and "--max-tokens" not in command
    done = cli(*shlex.split(command)[1:])
    assert done.code == 0, done.err


def test_rows_that_the_server_refuses_are_not_blamed_on_a_setting(cli, jsonl, scripted):
    """A refusal that names no setting is left to the advice about failed rows."""
    endpoint = scripted(lambda *_: refused(400, "messages: image is too small"))
    flags = ("-o", "out", "--no-progress", "--base-url", endpoint.base_url, "--model", "m")
    done = cli("run", jsonl(3), *flags)
    assert done.code == 1
    assert "to fix: " not in done.err and "invalid_request: " in done.err


def test_a_cap_that_would_stop_the_same_command_again(cli, jsonl):
    """The flag that has to be raised is named before the command."""
    flags = ("--provider", "simulator", "--model", "gpt-4.1", "--max-tokens", "50", "--no-progress")
    done = cli("run", jsonl(5), "-o", "out", *flags, "--max-cost", "0.00001")
    assert done.code == 3
    assert ending(done)["to fix"].startswith("raise --max-cost")


@pytest.mark.parametrize(
    ("flag", "cap"),
    [
        ("--max-cost", "0.00001"),
        ("--max-cost", "0.005"),
        ("--max-total-tokens", "10"),
        ("--max-total-tokens", "2500"),
    ],
)
def test_the_next_command_has_a_budget_that_is_enough(cli, jsonl, flag, cap):
    """The command as it is printed ends the run, whether rows were answered before or none was."""
    flags = ("--provider", "simulator", "--model", "gpt-4.1", "--max-tokens", "50", "--no-progress")
    done = cli("run", jsonl(40), "-o", "out", *flags, flag, cap)
    assert done.code == 3, done.err
    command = shlex.split(ending(done)["then, to resume"])
    assert command[command.index(flag) + 1] in ending(done)["to fix"]
    assert f"to fix: raise {flag}" in cli("status", "out").out
    done = cli(*command[1:])
    assert done.code == 0, done.err
    assert "40 of 40 rows ok" in done.err


@pytest.mark.parametrize(
    ("charged", "needs", "projected", "pending", "cap"),
    [
        (0.0, 0.0011, None, 30, "0.033"),
        (0.0, 0.0011, None, None, "0.0011"),
        (1.5, 0.25, 3.0, 10, "4.8"),
        (100.0, 1.0, 1234.0, 10, "1400"),
        (2500, 60.0, None, 7, "3000"),
        (0, 5.0, None, 1, "5"),
    ],
)
def test_a_cap_is_rounded_up_to_two_digits(charged, needs, projected, pending, cap):
    """It is never below what is needed, and reads as somebody would type it."""
    found = next_steps.enough(charged, needs, projected, pending)
    assert found == cap
    ahead = needs * (pending or 1) if projected is None else projected + needs
    assert float(found) >= charged + ahead


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--max-failures", "2"), "--max-failures, which counts from every start anew"),
        (("--max-truncated", "5%"), "--max-tokens N --keep-done --retry-class truncated"),
    ],
)
def test_a_guard_says_what_becomes_of_the_same_command(cli, jsonl, scripted, answer, flags, words):
    """What to change, or that nothing has to be."""

    def reply(_body, _headers, nth):
        if "--max-failures" in flags and nth % 2:
            return 413, {}, {"error": {"message": "no"}}
        return 200, {}, ended(answer("x"), "length" if "--max-truncated" in flags else "stop")

    place = ("-o", "out", "--no-progress", "--base-url", scripted(reply).base_url, "--model", "m")
    done = cli("run", jsonl(200), *place, "--concurrency", 2, *flags)
    assert done.code == 3, done.err
    assert words in ending(done)["to fix"]


def test_longer_answers_are_asked_for_as_the_hint_says(cli, jsonl, scripted, answer):
    """The flags of the hint go with the same command, and the answers are whole afterwards."""

    def reply(body, _headers, _nth):
        short = body["max_tokens"] < 100
        return 200, {}, ended(answer("x"), "length" if short else "stop")

    place = ("-o", "out", "--no-progress", "--base-url", scripted(reply).base_url, "--model", "m")
    done = cli("run", jsonl(3), *place, "--max-tokens", "50")
    assert done.code == 0 and "3 truncated" in done.err
    hint = "--max-tokens N --keep-done --retry-class truncated"
    assert hint in done.err
    done = cli("run", jsonl(3), *place, *hint.replace("N", "100").split())
    assert done.code == 0, done.err
    assert "truncated" not in done.err.partition("complete")[2]


def test_a_corrected_parameter_is_sent_to_rows_that_failed(cli, jsonl, scripted, answer):
    """All rows failed of a parameter: the printed command takes it corrected, and is not refused
    for the change.
    """

    def reply(body, _headers, _nth):
        if body.get("top_p") == 7:
            return refused(400, "top_p: out of range")
        return 200, {}, answer("x")

    place = ("-o", "out", "--no-progress", "--base-url", scripted(reply).base_url, "--model", "m")
    done = cli("run", jsonl(200), *place, "--top-p", "7", "--concurrency", 2)
    assert done.code == 3, done.err
    command = shlex.split(ending(done)["to resume"])
    command[command.index("--top-p") + 1] = "0.5"
    done = cli(*command[1:])
    assert done.code == 0, done.err
    assert "200 of 200 rows ok" in done.err


@pytest.mark.parametrize("code", ["insufficient_quota", "rate_limit_exceeded"])
def test_a_stop_that_no_setting_caused_is_resumed_as_it_is(stopped, scripted, code):
    """A quota, or a wait that is too long: the same command, later."""
    headers = {"Retry-After": "7200"} if code == "rate_limit_exceeded" else {}
    reply = refused(429, "Come back later.", code)
    endpoint = scripted(lambda *_: (429, headers, reply[2]))
    found = stopped("--base-url", endpoint.base_url)
    assert "to fix" not in found and found["to resume"].startswith("batchrun run ")
    if headers:
        assert "let it wait with --max-wait 7200" in found["all"]


def test_a_key_in_the_url_is_never_shown(stopped, scripted):
    """The value of a query stays out of fixes and commands."""
    endpoint = scripted(lambda *_: (404, {"Content-Type": "text/plain"}, b"404 page not found"))
    host = endpoint.base_url.removesuffix("/v1")
    found = stopped("--base-url", f"{host}/api?key={KEY}")
    assert "/api/v1?key=..." in found["to fix"]


@pytest.mark.parametrize(
    ("message", "model"),
    [
        ("The model `gpt-5x` does not exist or you do not have access to it.", "gpt-5x"),
        ("model 'lama3' not found", "lama3"),
        ('The model "org/name:free" does not exist', "org/name:free"),
        ("model \u201cabc\u201d is unknown", "abc"),
        ("Not Found", None),
        ("no model is loaded", None),
    ],
)
def test_the_model_in_a_message_is_found(message, model):
    """However it is quoted; nothing where none is named."""
    assert next_steps.model_named(message) == model


@pytest.mark.parametrize(
    "key", [KEY, "EMPTY", "none", "not-needed", "lm-studio", "gsk_x=y=", "a b", "QUJDREVG=="]
)
def test_ordinary_keys_have_no_flaw(key):
    """Dummies of local servers, base64 and odd keys are sent as they are."""
    assert key_flaw(key) is None


@pytest.mark.parametrize(
    ("message", "fixed"),
    [
        ("HTTP 301: redirected to https://h/v1/chat/completions, which is not followed (x)", True),
        ("HTTP 301: redirected to https://evil/v1/chat/completions, which is not followed", False),
        ("nothing of the kind", False),
    ],
)
def test_only_a_redirect_on_the_same_host_is_put_into_the_command(message, fixed):
    """The key would go wherever the command names."""
    found = next_steps.of_redirect("http://h/v1", message)
    assert (found is not None) is fixed
    assert found is None or found.flags == {"--base-url": "https://h/v1"}
