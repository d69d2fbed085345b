"""What replies say of their cost."""

import json

import pytest

from batchrun.core.cost.reported_cost import COST_HEADER, reported_pd
from batchrun.core.reply import completion as reading
from batchrun.testing.samples import completion_body

USD = 10**12


@pytest.mark.parametrize(
    ("usage", "cost_pd"),
    [
        ({"cost": 0.00014}, 140_000_000),
        ({"cost": 0}, 0),
        ({"cost": 0.1}, 100_000_000_000),
        ({"cost": 1e-12}, 1),
        ({"cost": 2.5e-12}, 2),
        ({"cost": 0.05, "is_byok": True, "cost_details": {"upstream_inference_cost": 1}},
         1_050_000_000_000),
        ({"cost": 0.05, "is_byok": False, "cost_details": {"upstream_inference_cost": 1}},
         50_000_000_000),
        ({"cost_in_usd_ticks": 37_756_000}, 3_775_600_000),
        ({"cost": {"input_tokens_cost": 0.1, "total_cost": 0.3}}, 300_000_000_000),
        ({"estimated_cost": 2.1e-05}, 21_000_000),
        ({"cost": 10_000}, 10_000 * USD),
        ({"cost": "0.1"}, 100_000_000_000),
        ({"cost": "$0.00014"}, 140_000_000),
        ({"cost": "1.4E-4 USD"}, 140_000_000),
        ({"estimated_cost": "0.000021"}, 21_000_000),
        ({"cost": {"total_cost": "0.3"}}, 300_000_000_000),
        # Not what it could mean
        ({"cost": -1}, None),
        ({"cost": 10_001}, None),
        ({"cost": 1e400}, None),
        ({"cost": True}, None),
        ({"cost": "unknown"}, None),
        ({"cost": "-0.1"}, None),
        ({"cost": "1e400"}, None),
        ({"cost": None}, None),
        ({"cost": {}}, None),
        ({"cost": 9e3, "is_byok": True, "cost_details": {"upstream_inference_cost": 9e3}}, None),
        ({"cost_in_usd_ticks": -1}, None),
        ({"cost_in_usd_ticks": 10**30}, None),
        ({"cost_in_usd_ticks": 1.5}, None),
        ({}, None),
        (None, None),
        ([], None),
    ],
)  # fmt: skip
def test_costs_of_providers(usage, cost_pd):
    """Each vendor's field is read as that vendor means it; junk counts as nothing said."""
    assert _of_body(completion_body(usage=usage)) == cost_pd


def _of_body(body):
    usage_raw = reading.usage_and_text(reading.parse(body))[1]
    return reported_pd(usage_raw, {})


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b'{"cost": 1}', b'"cost"', b'{"usage": {"cost": NaN}}',
     b'{"usage": {"cost": ' + b"9" * 5000 + b"}}", b'{"usage": ' + b"[" * 100_000 + b'"cost']
)  # fmt: skip
def test_any_body_is_read(body):
    """What is no reply says nothing of a cost."""
    assert _of_body(body) is None


def test_an_answer_that_speaks_of_costs_is_no_cost():
    """Only the usage counts, whatever the text says; odd JSON is read like everywhere."""
    said = json.dumps({"usage": {"cost": 3}})
    assert _of_body(completion_body(said)) is None
    assert _of_body(b'\xef\xbb\xbf{"usage": {"cost": 3}, "x": NaN}') == 3 * USD


@pytest.mark.parametrize(
    ("usage_raw", "header", "cost_pd"),
    [
        (None, "0.00014", 140_000_000),
        ('{"total_tokens": 9}', "1.4e-4", 140_000_000),
        ('{"cost": 2}', "1", 2 * USD),
        ('{"cost": "unknown"}', "1", USD),
        (None, "0", None),
        (None, "0.0", None),
        (None, "None", None),
        (None, "", None),
        (None, "-1", None),
        (None, None, None),
    ],
)
def test_a_cost_in_a_header(usage_raw, header, cost_pd):
    """It counts where the body names none. A gateway says 0 or None where it has no price."""
    headers = {} if header is None else {COST_HEADER: header}
    assert reported_pd(usage_raw, headers) == cost_pd
