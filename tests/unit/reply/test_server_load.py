"""Pages of `/metrics`: what servers report of their load, and what is no report."""

import pytest

from batchrun.core.reply.server_load import Load, read_load

VLLM = b"""# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="org/model"} 12.0
vllm:num_requests_waiting{engine="0",model_name="org/model"} 3.0
vllm:num_requests_waiting_by_reason{reason="capacity"} 77.0
"""

PAGES = {
    "vLLM": (VLLM, Load(12, 3)),
    "two engines": (VLLM + VLLM.replace(b'"0"', b'"1"'), Load(24, 6)),
    "SGLang": (b"sglang:num_running_reqs 5\nsglang:num_queue_reqs 0\n", Load(5, 0)),
    "underscores": (b"sglang_num_running_reqs 5\nsglang_num_queue_reqs 9\n", Load(5, 9)),
    "llama.cpp": (b"llamacpp:requests_processing 4\nllamacpp:requests_deferred 60", Load(4, 60)),
    "TGI": (b"tgi_batch_current_size 8 1700000000000\ntgi_queue_size 1\n", Load(8, 1)),
    "TEI reports no running requests": (b"te_queue_size 2\n", Load(None, 2)),
    "an exponent": (b"tgi_queue_size 1.2e+01\n", Load(None, 12)),
    "a brace in a label": (b'tgi_queue_size{a="} 7"} 3\n', Load(None, 3)),
    "Windows line ends": (b"tgi_queue_size 3\r\ntgi_batch_current_size 2\r\n", Load(2, 3)),
    "no waiting": (b"vllm:num_requests_running 4\n", None),
    "other names": (b"process_cpu_seconds_total 4\nmy_tgi_queue_size 3\n", None),
    "not a number": (b"tgi_queue_size NaN\n", None),
    "infinite": (b"tgi_queue_size +Inf\n", None),
    "negative": (b"tgi_queue_size -1\n", None),
    "too many": (b"tgi_queue_size 1e300\n", None),
    "words": (b"tgi_queue_size many\n", None),
    "one engine is wrong": (b'tgi_queue_size{a="1"} 3\ntgi_queue_size{a="2"} NaN\n', None),
    "running is wrong": (b"tgi_queue_size 3\ntgi_batch_current_size NaN\n", Load(None, 3)),
    "a web page": (b"<html>\ntgi_queue_size\n</html>", None),
    "nothing": (b"", None),
    "bytes": (bytes(range(256)) * 9, None),
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_read(name):
    """Known gauges are summed over engines; what cannot be a count makes its gauge unknown."""
    page, load = PAGES[name]
    assert read_load(page) == load


@pytest.mark.parametrize(
    "page", [b"tgi_queue_size{" + b"}" * 400_000, b"tgi_queue_size" + b" " * 400_000 + b"\n"]
)
def test_a_page_of_rubbish_is_soon_read(page):
    """It takes time in proportion to its length: this test would not end otherwise."""
    assert read_load(page) is None
