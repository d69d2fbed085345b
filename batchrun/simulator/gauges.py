"""``/metrics`` as vLLM's servers have it, in the text format of Prometheus.

The names are those of vllm/v1/metrics/loggers.py.
"""

from batchrun.simulator.scheduler import Scheduler

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def write_gauges(
    scheduler: Scheduler, in_flight: int, prompt_tokens: int, completion_tokens: int, model: str
) -> bytes:
    """The load at one moment. A server without a capacity runs all requests in flight."""
    running = in_flight if scheduler.capacity is None else scheduler.running
    rows = (
        ("num_requests_running", "gauge", "Requests that run.", running),
        ("num_requests_waiting", "gauge", "Requests that wait to run.", scheduler.waiting),
        ("kv_cache_usage_perc", "gauge", "KV cache in use; 1 is all of it.", scheduler.kv_usage),
        ("num_preemptions_total", "counter", "Preemptions so far.", scheduler.preemptions),
        ("prompt_tokens_total", "counter", "Prompt tokens so far.", prompt_tokens),
        ("generation_tokens_total", "counter", "Generated tokens so far.", completion_tokens),
    )
    escaped = model.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    lines = []
    for name, kind, told, value in rows:
        lines += [
            f"# HELP vllm:{name} {told}",
            f"# TYPE vllm:{name} {kind}",
            f'vllm:{name}{{engine="0",model_name="{escaped}"}} {float(value)}',
        ]
    return "".join(f"{line}\n" for line in lines).encode()
