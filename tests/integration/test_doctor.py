"""What the doctor says of an endpoint, by the real command."""

import re

import pytest

KEY = "key-for-the-doctor"


@pytest.fixture
def models():
    """The body of a list of models."""
    return lambda *names: {"object": "list", "data": [{"id": name} for name in names]}


@pytest.fixture
def doctor(cli):
    """Runs the command; returns its exit code, its checks by name, and how it ended."""

    def run(*arguments, env=None):
        done = cli("doctor", *arguments, "--json", env=env)
        assert done.code in (0, 1), done.err
        assert done.json["ok"] == (done.code == 0)
        assert KEY not in done.out + done.err
        checks = {check["name"]: check for check in done.json["checks"]}
        return done.code, checks, done

    return run


def _statuses(checks):
    return {name: check["status"] for name, check in checks.items()}


def test_all_is_well(cli, scripted, answer, models):
    """Key, URL, list and request, in this order, each in a line; the key comes from .env."""
    endpoint = scripted(lambda body, *_: (200, {}, answer() if body else models("m", "n")))
    (cli.folder / ".env").write_text(f"GROQ_API_KEY={KEY}\n")
    done = cli("doctor", "--provider", "groq", "--base-url", endpoint.base_url, "--model", "m")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert [line.split()[:2] for line in lines[1:5]] == [
        ["ok", name] for name in ("key", "url", "models", "request")
    ]
    assert "GROQ_API_KEY in .env, sent as Authorization" in lines[1]
    assert "2 models listed, m among them" in lines[3]
    assert lines[-1] == "ready to run"
    assert KEY not in done.out
    (listing, _, _), (asking, headers, body) = endpoint.requests
    assert (listing, asking) == ("/v1/models", "/v1/chat/completions")
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert body["max_tokens"] == 16


def test_a_missing_key(doctor, scripted):
    """The variable is named, the server is still reached, and it is asked nothing."""
    endpoint = scripted(lambda *_: (404, {}, {}))
    code, checks, _ = doctor("--provider", "mistral", "--base-url", endpoint.base_url)
    assert code == 1
    assert _statuses(checks) == {"key": "failed", "url": "ok"}
    assert "MISTRAL_API_KEY" in checks["key"]["message"]


def test_a_refused_key(doctor, scripted):
    """The sentence is that of a run."""
    refusal = {"error": {"message": f"no such key: {KEY}", "code": "invalid_api_key"}}
    endpoint = scripted(lambda *_: (401, {}, refusal))
    code, checks, _ = doctor(
        *("--provider", "deepseek", "--base-url", endpoint.base_url, "--model", "m"),
        env={"DEEPSEEK_API_KEY": KEY},
    )
    assert code == 1
    told = "auth (HTTP 401): no such key: [redacted]; check the key"
    assert checks["models"]["message"] == checks["request"]["message"] == told
    assert "the variable DEEPSEEK_API_KEY" in checks["models"]["todo"]
    assert KEY not in str(checks)


@pytest.mark.parametrize(
    ("url", "words", "todo"),
    [
        ("http://127.0.0.1:9/v1", "no connection to 127.0.0.1:9", "vllm serve"),
        ("http://no-such-host.invalid/v1", "no address for no-such-host.invalid", "spelling"),
    ],
)
def test_a_server_that_is_not_there(doctor, url, words, todo):
    """What is wrong, and what to do; nothing else is tried."""
    code, checks, _ = doctor("--provider", "vllm", "--base-url", url)
    assert code == 1
    assert _statuses(checks) == {"key": "ok", "url": "failed"}
    assert words in checks["url"]["message"]
    assert todo in checks["url"]["todo"]


def test_a_certificate_that_nobody_vouches_for(doctor, scripted, authority):
    """TLS is refused by the URL's check, with the run's words; --ca-file mends it."""
    endpoint = scripted(lambda *_: (404, {}, {}), authority.server_tls())
    code, checks, _ = doctor("--base-url", endpoint.base_url)
    assert code == 1
    assert "certificate" in checks["url"]["message"] and "--ca-file" in checks["url"]["message"]
    _, checks, _ = doctor("--base-url", endpoint.base_url, "--ca-file", authority.file)
    assert checks["url"]["status"] == "ok"


def test_a_model_that_is_not_there(doctor, scripted, models):
    """The nearest listed ones are named by the list and by the request."""
    missing = {"error": {"message": "model 'lama3' not found", "type": "not_found_error"}}
    endpoint = scripted(
        lambda body, *_: (404, {}, missing) if body else (200, {}, models("llama3.2", "qwen3"))
    )
    code, checks, _ = doctor(
        "--provider", "ollama", "--base-url", endpoint.base_url, "--model", "lama3"
    )
    assert code == 1
    assert _statuses(checks) == {
        "key": "ok", "url": "ok", "models": "warning", "request": "failed",
    }  # fmt: skip
    assert "not_found (HTTP 404)" in checks["request"]["message"]
    assert checks["request"]["todo"] == checks["models"]["todo"] == "did you mean llama3.2?"


def test_the_wrong_path(doctor, scripted):
    """A server that answers 200 with an error on unknown paths (LM Studio without /v1)."""
    said = {"error": "Unexpected endpoint or method. (POST /chat/completions)"}
    endpoint = scripted(lambda *_: (200, {}, said))
    code, checks, _ = doctor(
        "--provider", "lm-studio", "--base-url", endpoint.base_url + "/x", "--model", "m"
    )
    assert code == 1
    assert checks["models"]["status"] == "warning" and "/v1" in checks["models"]["todo"]
    assert "not_found" in checks["request"]["message"]


def test_a_model_that_knows_the_limit_by_its_other_name(doctor, scripted, answer):
    """The request is sent again with it, and the finding is told."""

    def reply(body, *_):
        if body is None:
            return 404, {}, {}
        if "max_tokens" in body:
            message = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
            return 400, {}, {"error": {"message": message, "code": "unsupported_parameter"}}
        return 200, {}, answer(model="o9")

    endpoint = scripted(reply)
    code, checks, _ = doctor("--base-url", endpoint.base_url, "--model", "o9")
    assert code == 0
    assert _statuses(checks)["models"] == "skipped"
    assert "max_completion_tokens" in checks["request"]["todo"]
    assert endpoint.requests[-1][2]["max_completion_tokens"] == 16


def test_a_config_is_looked_at_as_a_run_reads_it(cli, doctor, scripted, answer, models):
    """Its parameters, headers and model are those of the request; its limit is kept by name."""
    endpoint = scripted(lambda body, *_: (200, {}, answer() if body else models("m")))
    (cli.folder / "c.toml").write_text(
        f"""
        [request]
        model = "m"
        params = {{ temperature = 0, max_completion_tokens = 900 }}
        [[endpoint]]
        provider = "azure"
        base_url = "{endpoint.base_url}"
        headers = {{ X-Team = "t" }}
        """
    )
    code, checks, done = doctor("-c", "c.toml", env={"AZURE_OPENAI_API_KEY": KEY})
    assert code == 0, done.out
    assert checks["models"]["status"] == "skipped"
    _, headers, body = endpoint.requests[-1]
    assert (headers["api-key"], headers["X-Team"]) == (KEY, "t")
    assert (body["temperature"], body["max_completion_tokens"]) == (0, 16)
    assert "max_tokens" not in body
    assert done.json["model"] == "m"


@pytest.mark.parametrize(("listed", "status"), [(["only"], "ok"), (["a", "b"], "failed")])
def test_without_a_model(doctor, scripted, answer, models, listed, status):
    """The only model there is gets asked; of several none is, and nothing is proved."""
    endpoint = scripted(lambda body, *_: (200, {}, answer() if body else models(*listed)))
    _, checks, _ = doctor("--provider", "llama-cpp", "--base-url", endpoint.base_url)
    assert checks["request"]["status"] == status
    assert len(endpoint.requests) == 1 + (status == "ok")


def test_a_server_that_is_slow_or_busy(doctor, scripted, models):
    """A refusal that a run would wait out says so."""
    busy = {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}
    endpoint = scripted(lambda body, *_: (503, {}, busy) if body else (200, {}, models("m")))
    code, checks, _ = doctor(
        "--provider", "llama-cpp", "--base-url", endpoint.base_url, "--model", "m"
    )
    assert code == 1
    assert "overloaded (HTTP 503): Loading model" in checks["request"]["message"]
    assert "try again" in checks["request"]["todo"]


def test_mistakes_of_usage_are_exit_2(cli):
    """An unknown provider, as everywhere."""
    done = cli("doctor", "--provider", "grok")
    assert done.code == 2
    assert "did you mean groq" in done.err


def test_the_list_of_providers(cli):
    """Names, URLs, variables and whether they are set; never a key."""
    done = cli("providers", env={"GROQ_API_KEY": KEY})
    assert done.code == 0
    told = re.compile(r"^groq +https://api.groq.com/openai/v1\n +GROQ_API_KEY: set$", re.MULTILINE)
    assert told.search(done.out)
    assert "MISTRAL_API_KEY: not set" in done.out
    as_json = cli("providers", "--json", env={"GROQ_API_KEY": KEY})
    found = {row["name"]: row for row in as_json.json["providers"]}
    assert found["groq"]["key_set"] and not found["mistral"]["key_set"]
    assert found["azure"]["key_header"] == "api-key"
    assert KEY not in done.out + as_json.out
