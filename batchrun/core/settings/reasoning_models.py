"""Models that write their reasoning into the content, between tags, by their names.

The command line loads this with the settings; what it takes to split is loaded with the first
answer (``core/reply/thinking.py``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from batchrun.core.settings.endpoint import Endpoint
from batchrun.core.text.template_syntax import is_template

KEEP, SPLIT = "keep", "split"

MODELS: tuple[tuple[str, str], ...] = (
    (r"\br1\b|\breasoner\b", "DeepSeek R1, its distillates and other models of that name"),
    (r"\bqwq\b|\bqvq\b|\bqwen3", "Qwen; vLLM's qwen3 parser"),
    (r"thinking|reasoning|\bthinker\b|openthinker", "models that are named after it"),
    (r"\bmagistral\b", "Mistral; vLLM's mistral parser"),
    (r"\bexaone-deep\b", "LG; its model card"),
    (r"\bglm-(?:z1|4\.[5-9])", "Z.ai; vLLM's glm45 parser"),
    (r"\bminimax-m[12]", "MiniMax; vLLM's minimax_m2_append_think parser"),
    (r"\bhunyuan-a13b\b|\bseed-oss\b|\bernie-4\.5-vl\b", "vLLM's parsers of these names"),
    (r"\bnemotron\b|\bsmollm3\b|\bsky-t1\b", "their model cards"),
)
"""Names of models that write their reasoning between tags, and where that is known from. Splitting
does nothing where a server has done it already."""

_MODELS = re.compile("|".join(pattern for pattern, _ in MODELS))


def implied_by(models: Iterable[str]) -> bool:
    """Whether the name of any of these models says that it reasons between tags."""
    return any(_MODELS.search(model.lower().replace("_", "-")) for model in models)


def implied(value: Mapping[str, Any], endpoints: Iterable[Endpoint]) -> str:
    """What becomes of reasoning in tags where nobody says: ``SPLIT`` if the run's model has such a
    name, here or at an endpoint, else ``KEEP``. ``value`` are the settings by name.
    """
    model = value["request.model"] or value["request.params"].get("model")
    if not isinstance(model, str) or is_template(model):
        return KEEP
    theirs = (endpoint.models.get(model, model) for endpoint in endpoints if endpoint.models)
    return SPLIT if implied_by((model, *theirs)) else KEEP
