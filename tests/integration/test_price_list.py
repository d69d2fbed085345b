"""The list of prices, held against the package it is from, which computes costs in its own way."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from batchrun.adapters.environment.price_list import PriceList
from batchrun.core.settings.resolve import resolve
from batchrun.records import Usage

NOW = datetime(2026, 11, 2, 12, 20, tzinfo=UTC)
NIGHT = datetime(2026, 11, 2, 2, 20, tzinfo=UTC)
LEAST = {"input.files": ["a"], "output.dir": "run"}


def _list(**endpoint):
    raw = LEAST | {f"endpoint.{name}": value for name, value in endpoint.items()}
    found = resolve(raw | {"endpoint.name": "e"}).endpoint
    prices = PriceList([found])
    return lambda model, tier=None, when=NOW: prices(
        "e", model, tier, int(when.timestamp() * 1_000_000)
    )


@pytest.mark.parametrize("provider", ["openai", "gemini", "deepseek", "groq", "mistral"])
def test_every_model_costs_what_the_package_says(provider):
    """All models of a provider, all tiers, day and night, at and around every border of prompt
    sizes: the cost in picodollars is the package's, rounded.
    """
    from genai_prices import Usage as Theirs
    from genai_prices import calc_price
    from genai_prices.data_snapshot import get_snapshot

    theirs = "google" if provider == "gemini" else provider
    listed = _list(provider=provider)
    models = get_snapshot().find_provider(None, theirs, None).models
    compared = tiered = 0
    for model in models:
        for tier, context in (
            (None, None),
            ("flex", {"service_tier": "flex"}),
            ("priority", {"service_tier": "priority"}),
            ("batch", {"processing": "batch"}),
        ):
            for when in (NOW, NIGHT):
                found = listed(model.id, tier, when)
                if found is None:
                    continue
                prompts = [1, 1000, 10**6]
                prompts += [n + d for n, _ in found.price.steps for d in (-1, 0, 1)]
                tiered += len(prompts) > 3
                for prompt in prompts:
                    cached = prompt // 3
                    expected = calc_price(
                        Theirs(input_tokens=prompt, cache_read_tokens=cached, output_tokens=77),
                        model.id, provider_id=theirs, genai_request_timestamp=when,
                        price_context=context,
                    ).total_price  # fmt: skip
                    cost_pd = found.price.cost_pd(Usage(prompt, 77, prompt + 77, cached))
                    assert cost_pd == round(expected * 10**12), (model.id, tier, prompt)
                    compared += 1
    assert compared > 50
    assert tiered or provider != "gemini"


def test_known_prices():
    """A million tokens each way, as the providers publish it."""
    million = Usage(10**6, 10**6, 2 * 10**6)
    listed = _list(provider="openai")
    assert listed("gpt-4o").price.cost_pd(million) == 12_500_000_000_000
    assert listed("gpt-4.1", "batch").price.cost_pd(million) == 5_000_000_000_000
    assert listed("gpt-4.1", "batch").tier_known and not listed("gpt-4o", "flex").tier_known
    assert listed("no-such-model") is None


@pytest.mark.parametrize(
    ("endpoint", "model", "guessed"),
    [
        ({"base_url": "https://api.openai.com/v1"}, "gpt-4o", False),
        ({"base_url": "https://example.openai.azure.com/openai/v1"}, "gpt-4o", False),
        ({"provider": "openrouter"}, "openai/gpt-4o", False),
        ({"base_url": "https://gateway.example.com/v1"}, "gpt-4o", True),
        ({"base_url": "http://127.0.0.1:8000/v1"}, "gpt-4o", True),
        ({"base_url": "http://localhost:4000/v1"}, "openai/gpt-4o", True),
        ({"base_url": "http://10.0.0.7/v1"}, "claude-sonnet-4-5", True),
        ({"provider": "simulator"}, "gpt-4o", True),
    ],
)
def test_where_a_price_is_from(endpoint, model, guessed):
    """The provider's own price where it is known who that is; else that of a model's only maker,
    with a remark.
    """
    found = _list(**endpoint)(model)
    assert found is not None
    assert (found.remark is not None) is guessed
    assert not guessed or f'[prices."{model}"]' in found.remark


@pytest.mark.parametrize(
    ("endpoint", "model"),
    [
        ({"base_url": "http://127.0.0.1:8000/v1"}, "deepseek-r1"),
        ({"base_url": "http://10.0.0.7/v1"}, "mistral-small-latest"),
        ({"base_url": "http+unix://%2Frun%2Fllm.sock/v1"}, "qwen3-32b"),
        ({"base_url": "https://gpu.example.com/v1"}, "meta-llama/Llama-3.1-8B-Instruct"),
        ({"base_url": "https://gpu.example.com/v1"}, "gpt-oss-20b"),
        ({"provider": "vllm"}, "deepseek-chat"),
        ({"provider": "ollama"}, "llama3"),
    ],
)
def test_an_open_model_on_somebodys_own_machine_has_no_price(endpoint, model):
    """What its maker asks for it says nothing of what it costs here."""
    assert _list(**endpoint)(model) is None


def test_the_list_is_not_loaded_for_nothing(cli, simulator, jsonl):
    """A run on a server of one's own does not pay for loading it."""
    import os
    import subprocess
    import sys

    endpoint = simulator()
    code = (
        "import sys\nfrom batchrun.cli.main import main\n"
        "try:\n    main()\nfinally:\n    print('genai_prices' in sys.modules)\n"
    )
    for model, loaded in (("qwen3-32b", "False"), ("gpt-4o", "True")):
        done = subprocess.run(
            [sys.executable, "-c", code, "run", str(jsonl(2)), "-o", model, "--model", model,
             "--base-url", endpoint.base_url, "--quiet"],
            cwd=cli.folder, env=os.environ, capture_output=True, text=True, check=False,
            timeout=240,
        )  # fmt: skip
        assert done.stdout.split() == [loaded], done.stderr


def test_amounts_are_decimal():
    """The list's own figures are exact, which the costs rest on."""
    from genai_prices.data_snapshot import get_snapshot

    model = get_snapshot().find_provider(None, "openai", None).find_model("gpt-4o")
    assert isinstance(model.get_prices(NOW).input_mtok, Decimal)
