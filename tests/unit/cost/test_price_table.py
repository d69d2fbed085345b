"""The user's own prices in the config file."""

import re
from decimal import Decimal

import pytest

from batchrun.core.cost.price_table import OwnPrice, own_prices
from batchrun.core.cost.pricing import Quote
from batchrun.core.settings.resolve import from_toml, lay_over, resolve
from batchrun.errors import UsageError

LEAST = '[input]\nfiles = ["a.jsonl"]\n[output]\ndir = "run"\n'
D = Decimal


def _prices(text):
    return resolve(from_toml(LEAST + text, path="c.toml")).prices


def test_numbers_are_read_as_they_are_written():
    """A tenth is a tenth; the other settings keep the types they have."""
    text = '[request]\nparams = { temperature = 0.1 }\n[prices."a/b"]\ninput = 0.1\noutput = 1e-3\n'
    settings = resolve(from_toml(LEAST + text, path="c.toml"))
    assert settings.prices == {"a/b": OwnPrice(D("0.1"), D("0.001"))}
    assert type(settings.params["temperature"]) is float
    assert settings.public()["prices"] == {"a/b": {"input": "0.1", "output": "0.001"}}
    assert "prices" not in settings.shaping()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cached_inputs = 1", 'prices."m".cached_inputs; did you mean cached_input?'),
        ("input = -0.1", 'prices."m".input is -0.1'),
        ("input = nan", 'prices."m".input is NaN'),
        ("input = inf", 'prices."m".input is Infinity'),
        ("input = 1000001", 'prices."m".input is 1000001'),
        ("input = 1e999999999", 'prices."m".input is 1E+999999999'),
        ("input = 1e-999999999", "digits behind the point"),
        ("input = 1e99999999999999999999", "exponent"),
        ('input = "1"', 'prices."m".input is 1'),
        ("input = true", 'prices."m".input is True'),
        ("input = 1", 'prices."m" has no output'),
        ("output = 1", 'prices."m" has no input'),
    ],
)
def test_what_is_no_price_is_refused(text, words):
    """The error names the key, and the nearest one for a key that is not known."""
    with pytest.raises(UsageError, match=re.escape(words)):
        _prices(f'[prices."m"]\n{text}\n')


@pytest.mark.parametrize("text", ["prices = 1", "[prices]\nm = 1", "[[prices]]\ninput = 1"])
def test_what_is_no_table_of_prices_is_refused(text):
    """A price belongs to a model."""
    with pytest.raises(UsageError, match="prices"):
        resolve(from_toml(f"{text}\n" + LEAST, path="c.toml"))


def test_tiers():
    """Batches and flex have their own price where there is one; what has none is told."""
    own = OwnPrice(D(2), D(8), D("0.5"), None, D(1), D(4))
    assert own.quote("flex") == own.quote("batch") == Quote(D(1), D(4), D("0.5"), None)
    assert own.quote(None) == own.quote("priority") == Quote(D(2), D(8), D("0.5"), None)
    assert own.knows("flex") and own.knows("default") and not own.knows("priority")
    assert not OwnPrice(D(2), D(8)).knows("flex")
    assert OwnPrice(D(2), D(8), batch_output=D(4)).quote("batch") == Quote(D(2), D(4))


def test_prices_of_a_program():
    """Floats are taken as they are written; a program's tables win model by model."""
    assert own_prices({"m": {"input": 0.1, "output": 3}}) == {"m": OwnPrice(D("0.1"), D(3))}
    file = from_toml(
        LEAST + "[prices.a]\ninput = 1\noutput = 1\n[prices.b]\ninput = 2\noutput = 2\n", path="c"
    )
    raw, _ = lay_over(file, {}, {"prices": {"b": {"input": 3, "output": 3}}})
    assert {m: p.input for m, p in resolve(raw).prices.items()} == {"a": 1, "b": 3}
