"""The table of providers, and what a name sets of an endpoint."""

import pytest

from batchrun.core.settings.azure import azure_url
from batchrun.core.settings.providers import (
    BUILT_IN,
    BY_NAME,
    LOCAL,
    LOCAL_MODEL,
    PROVIDERS,
    SIMULATOR,
    cautions,
    provider_named,
)
from batchrun.core.settings.resolve import lay_over, resolve
from batchrun.core.settings.urls import chat_completions_url
from batchrun.errors import UsageError

LEAST = {"input.files": ["a"], "output.dir": "run"}
RESOURCE = "https://r.openai.azure.com"


def endpoint(file=None, environment=None, **given):
    """The endpoint that comes of a file's table, variables and flags."""
    file = {f"endpoint.{key}": value for key, value in (file or {}).items()}
    flags = {f"endpoint.{key}": value for key, value in given.items() if key != "model"}
    if "model" in given:
        flags["request.model"] = given["model"]
    raw, warnings = lay_over(LEAST | file, environment or {}, flags)
    return resolve(raw).endpoint, warnings


@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda provider: provider.name)
def test_a_preset_is_whole(provider):
    """Its URL goes on to chat completions, its texts are there, and without a URL of its own it
    says where one comes from.
    """
    assert provider.remark.endswith(".") and provider.source
    if provider.base_url is not None:
        url = chat_completions_url(provider.base_url)
        assert url == provider.base_url.rstrip("/") + "/chat/completions"
    else:
        assert provider.name in BUILT_IN or provider.url_variables
    assert not provider.key_needed or provider.keys
    assert provider.key_needed or provider.name in BUILT_IN or provider.starts_with


@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda provider: provider.name)
def test_a_name_alone_is_enough(provider):
    """It fills in URL, variable and header, whatever the variables of OpenAI say."""
    environment = {"AZURE_OPENAI_ENDPOINT": RESOURCE}
    if provider.name != "openai":
        environment |= {"OPENAI_BASE_URL": "http://elsewhere/v1", "OPENAI_API_KEY": "another"}
    found, warnings = endpoint(environment=environment, provider=provider.name)
    assert warnings == []
    assert found.name == found.provider == provider.name
    expected = f"{RESOURCE}/openai/v1" if provider.name == "azure" else provider.base_url
    if provider.name not in BUILT_IN:
        assert found.base_url == expected
    assert found.api_key_env == (provider.keys[0].name if provider.keys else None)
    assert found.api_key_header == provider.key_header


def test_the_variables_of_a_key_are_tried_in_their_order():
    """The first that is set is used, with the header that belongs to it; blank is unset."""
    for environment, variable in (
        ({}, "GEMINI_API_KEY"),
        ({"GOOGLE_API_KEY": "k"}, "GOOGLE_API_KEY"),
        ({"GEMINI_API_KEY": " ", "GOOGLE_API_KEY": "k"}, "GOOGLE_API_KEY"),
        ({"GEMINI_API_KEY": "k", "GOOGLE_API_KEY": "k"}, "GEMINI_API_KEY"),
    ):
        assert endpoint(environment=environment, provider="gemini")[0].api_key_env == variable
    token = {"AZURE_OPENAI_ENDPOINT": RESOURCE, "AZURE_OPENAI_AD_TOKEN": "t"}
    found, _ = endpoint(environment=token, provider="azure")
    assert (found.api_key_env, found.api_key_header) == ("AZURE_OPENAI_AD_TOKEN", "Authorization")


def test_what_the_user_says_wins():
    """URL, variable, file and header of a flag or of the file are not filled in."""
    environment = {"GEMINI_API_KEY": "k"}
    found, _ = endpoint(
        {"api_key_file": "f"}, environment, provider="gemini", base_url="http://here/x"
    )
    assert found.base_url == "http://here/x" and found.api_key_file is None  # of another endpoint
    found, _ = endpoint({"provider": "gemini", "api_key_file": "f"}, environment)
    assert found.api_key_file == "f"
    found, _ = endpoint(
        environment=environment, provider="azure", base_url=RESOURCE, api_key_env="MINE"
    )
    assert (found.api_key_env, found.api_key_header) == ("MINE", "api-key")
    found, _ = endpoint(provider="groq", api_key_header="x-api-key")
    assert found.api_key_header == "x-api-key"


def test_a_provider_at_another_address():
    """A base URL beside the name keeps variable and header, wherever either is said."""
    for found, _ in (
        endpoint(provider="ollama", base_url="http://gpu:1/v1"),
        endpoint({"provider": "ollama"}, base_url="http://gpu:1/v1"),
        endpoint({"provider": "ollama", "base_url": "http://gpu:1/v1"}),
    ):
        assert (found.provider, found.base_url) == ("ollama", "http://gpu:1/v1")
        assert found.api_key_env is None


def test_both_generations_of_openais_variables():
    """They count for provider openai and without a provider; of both the newer one."""
    for given in ({}, {"provider": "openai"}):
        old, _ = endpoint(environment={"OPENAI_API_BASE": "http://old/v1"}, **given)
        assert old.base_url == "http://old/v1"
        both = {"OPENAI_API_BASE": "http://old/v1", "OPENAI_BASE_URL": "http://new/v1"}
        new, warnings = endpoint(environment=both, **given)
        assert new.base_url == "http://new/v1"
        assert len(warnings) == 1
        flag, _ = endpoint(environment=both, base_url="http://flag/v1", **given)
        assert flag.base_url == "http://flag/v1"


def test_nothing_of_another_endpoint_comes_along():
    """A flag that names another provider leaves of the file's endpoint its limits alone."""
    file = {
        "base_url": "http://mine/v1", "api_key_command": "cat k", "api_key_header": "api-key",
        "headers": {"Authorization": "secret"}, "ca_file": "ca", "rpm": 7, "name": "mine",
    }  # fmt: skip
    found, warnings = endpoint(file, provider="groq")
    assert found.base_url == BY_NAME["groq"].base_url
    assert (found.name, found.headers, found.ca_file, found.rpm) == ("groq", {}, None, 7)
    assert (found.api_key_env, found.api_key_command) == ("GROQ_API_KEY", None)
    assert found.api_key_header == "Authorization"
    assert len(warnings) == 1 and "api_key_command" in warnings[0] and "rpm" not in warnings[0]
    same, warnings = endpoint(file | {"provider": "groq"}, provider="groq")
    assert same.headers and same.ca_file == "ca" and not warnings


@pytest.mark.parametrize("name", BUILT_IN)
def test_what_batchrun_starts_has_no_url_to_give(name):
    """Its name and a URL as flags are two endpoints; a URL replaces it where the file names it."""
    with pytest.raises(UsageError, match="two endpoints"):
        endpoint(provider=name, base_url="http://x")
    found, _ = endpoint({"provider": name}, base_url="http://x")
    assert (found.provider, found.base_url) == (None, "http://x")


@pytest.mark.parametrize(
    ("given", "model"),
    [
        ({}, LOCAL_MODEL),
        ({"request.model": "mine"}, "mine"),
        ({"request.model": "{{ model }}"}, "{{ model }}"),
        ({"request.params": {"model": "mine"}}, None),
        ({"endpoint.provider": SIMULATOR}, None),
    ],
    ids=["none", "named", "template", "parameter", "another provider"],
)
def test_a_provider_with_one_model_implies_it(given, model):
    """The local model is asked for where nobody names one."""
    raw, _ = lay_over(LEAST | {"endpoint.provider": LOCAL}, {}, given)
    assert resolve(raw).model == model


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, (1, None)), ({"concurrency": "auto"}, (1, None)), ({"concurrency": 3}, (3, None))],
    ids=["default", "auto", "given"],
)
def test_a_provider_with_one_slot_is_asked_one_request_at_a_time(given, expected):
    """`auto` has nothing to find there; a number that is given counts."""
    found, _ = endpoint(provider=LOCAL, **given)
    assert (found.concurrency, found.bounds) == expected


def test_who_must_be_warned_of_answers():
    """The local model has a caution, said once however many endpoints have it."""
    assert cautions([LOCAL, "openai", None, LOCAL]) == [BY_NAME[LOCAL].caution]
    assert cautions([SIMULATOR, None]) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [("grok", "did you mean groq"), ("Azure", "azure"), ("llamacpp", "llama-cpp"), ("", "known")],
)
def test_an_unknown_name(name, words):
    """The nearest known ones are named."""
    with pytest.raises(UsageError, match=words):
        provider_named(name)
    with pytest.raises(UsageError, match=words):
        endpoint(provider=name)


DATED, PREVIEW = "2024-10-21", "2024-10-21-preview"
WHOLE = "/openai/deployments/x"


@pytest.mark.parametrize(
    ("base_url", "version", "model", "expected"),
    [
        (RESOURCE, None, None, "/openai/v1"),
        (f"{RESOURCE}/", "", "d", "/openai/v1"),
        (f"{RESOURCE}/openai", "v1", "d", "/openai/v1"),
        (RESOURCE, "preview", "d", "/openai/v1?api-version=preview"),
        (RESOURCE, DATED, "d", f"/openai/deployments/d?api-version={DATED}"),
        (RESOURCE, PREVIEW, "a/b", f"/openai/deployments/a%2Fb?api-version={PREVIEW}"),
        (f"{RESOURCE}/openai/v1/", DATED, "d", "/openai/v1"),
        (RESOURCE + WHOLE, DATED, "d", f"{WHOLE}?api-version={DATED}"),
        (f"{RESOURCE}{WHOLE}?api-version=1", DATED, "d", f"{WHOLE}?api-version=1"),
    ],
)  # fmt: skip
def test_azures_two_kinds_of_url(base_url, version, model, expected):
    """A date means a deployment's URL; a path that says which API is meant is kept."""
    assert azure_url(base_url, version, model) == RESOURCE + expected


def test_what_azure_cannot_do_without():
    """A resource; a deployment for a deployment's URL; a version that is one."""
    with pytest.raises(UsageError, match="AZURE_OPENAI_ENDPOINT"):
        endpoint(provider="azure")
    environment = {"AZURE_OPENAI_ENDPOINT": RESOURCE, "OPENAI_API_VERSION": DATED}
    with pytest.raises(UsageError, match="--model"):
        endpoint(environment=environment, provider="azure")
    found, _ = endpoint(environment=environment, provider="azure", model="d")
    assert found.base_url.endswith(f"/openai/deployments/d?api-version={DATED}")
    with pytest.raises(UsageError, match="OPENAI_API_VERSION"):
        endpoint(environment=environment | {"OPENAI_API_VERSION": "new"}, provider="azure")
