"""The request side of the chat completions protocol: read, identify, check, count."""

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple

import msgspec

from batchrun.simulator.rejections import invalid_request
from batchrun.simulator.tools import ToolUse, read_tools
from batchrun.simulator.writing.logprobs import TOP_MAX
from batchrun.simulator.writing.tokens import MESSAGE_TOKENS, PRIMING_TOKENS, count_tokens

DEFAULT_MODEL = "simulator"
CHOICES_MAX = 128

CACHED_MIN, CACHED_STEP = 1024, 128
"""From this many tokens on, a prompt's beginning is cached, in steps, as OpenAI documents. The
instructions at its beginning count as cached, as if by other requests that share them.
"""
_INSTRUCTING = ("system", "developer")

_EFFORTS = {"none": 0, "minimal": 20, "low": 40, "medium": 100, "high": 300, "xhigh": 800}
"""Reasoning tokens, by `reasoning_effort`; none if it is not set."""
_TIERS = {name: name for name in ("default", "flex", "priority", "scale")} | {"auto": "default"}
"""The tier that serves, by the requested `service_tier`."""


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """The parts of a valid request body that an answer depends on."""

    model: str
    said: str  # the text of the last user message, or of the last message if no user speaks
    prompt_tokens: int
    completion_tokens_max: int | None  # per choice
    choices: int
    stream: bool = False
    include_usage: bool = False  # the stream's last chunk tells the usage
    cached_tokens: int = 0  # of the prompt's
    reasoning_tokens: int = 0  # about so many come before each choice, and count as generated
    top_logprobs: int | None = None  # alternatives per token; None = no log probabilities
    tools: ToolUse | None = None
    json: bool = False  # the content is to be JSON
    schema: object = None  # and to fit this schema
    answered: bool = False  # the last message is a tool's result
    service_tier: str = "default"  # the one that serves the request

    def tokens_charged(self, completion_tokens: int, charge: str = "sum") -> int:
        """What a token limit charges, by one of CHARGES: the prompt and the most that may be
        generated, unless told otherwise.

        A request without a maximum of its own is charged what will be generated.
        """
        most = completion_tokens
        if self.completion_tokens_max is not None:
            most = self.choices * self.completion_tokens_max
        return CHARGES[charge](self.prompt_tokens, most, completion_tokens)


CHARGES: Mapping[str, Callable[[int, int, int], int]] = {
    "sum": lambda prompt, most, _: prompt + most,
    "max": lambda prompt, most, _: max(prompt, most),
    "input": lambda prompt, _most, _: prompt,
    "real": lambda prompt, _, generated: prompt + generated,
}
"""What a request counts against a token limit, given its prompt's tokens, the most that it may
generate, and what it will. ``real`` uses the actual tokens, as if known in advance.
"""


def read_body(raw: bytes) -> tuple[dict[str, Any], bytes]:
    """Decode a request body; returns it and the SHA-256 digest of its canonical form.

    The canonical form has the top-level keys sorted, no spaces and no escaped UTF-8, so that a
    client which knows the body it sent can compute the same digest. Raises RejectedError (400).
    """
    try:
        body = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid_request(f"The body is not valid JSON: {error}", None) from None
    if not isinstance(body, dict):
        raise invalid_request("The body must be a JSON object.", None)
    canonical = msgspec.json.encode({key: body[key] for key in sorted(body)})
    return body, sha256(canonical).digest()


def answer_digest(body: dict[str, Any], digest: bytes) -> bytes:
    """The digest on which the answer depends: that of the same request as if it did not stream.

    So a request is answered with the same text streamed or not.
    """
    if "stream" not in body and "stream_options" not in body:
        return digest
    plain = {key: body[key] for key in sorted(body) if key not in ("stream", "stream_options")}
    return sha256(msgspec.json.encode(plain)).digest()


def read_chat(body: dict[str, Any]) -> ChatRequest:
    """Check a request body; unknown fields are ignored.

    Raises RejectedError (400), which names the `param`.
    """
    stream, include_usage = _read_stream(body)
    model = body.get("model")
    if model is not None and not isinstance(model, str):
        raise invalid_request("'model' must be a string.", "model", "invalid_type")
    told = _read_messages(body)
    tools = read_tools(body)
    cap = _read_count(body, "max_completion_tokens")
    if cap is None:
        cap = _read_count(body, "max_tokens")
    return ChatRequest(
        model=model or DEFAULT_MODEL,
        said=told.said,
        prompt_tokens=told.tokens + (0 if tools is None else tools.tokens),
        completion_tokens_max=cap,
        choices=_read_count(body, "n", most=CHOICES_MAX) or 1,
        stream=stream,
        include_usage=include_usage,
        cached_tokens=told.cached_tokens,
        reasoning_tokens=_EFFORTS[_read_word(body, "reasoning_effort", _EFFORTS) or "none"],
        top_logprobs=_read_logprobs(body),
        tools=tools,
        **_read_format(body.get("response_format")),
        answered=told.answered,
        service_tier=_TIERS[_read_word(body, "service_tier", _TIERS) or "auto"],
    )


def _read_format(given: object) -> dict[str, Any]:
    """Whether JSON is wanted, and what it is to fit."""
    if given is None:
        return {}
    if not isinstance(given, dict) or not isinstance(kind := given.get("type"), str):
        raise invalid_request(
            "'response_format' must be an object with a 'type'.", "response_format", "invalid_type"
        )
    if kind not in ("json_schema", "json_object"):
        return {}
    inner = given.get("json_schema")
    schema = inner.get("schema") if isinstance(inner, dict) else given.get("schema")
    if kind == "json_schema" and schema is None:
        raise invalid_request(
            "'response_format' names no schema.",
            "response_format.json_schema.schema",
            "missing_required_parameter",
        )
    return {"json": True, "schema": schema}


def _read_stream(body: dict[str, Any]) -> tuple[bool, bool]:
    """Whether to stream, and whether to tell the usage at the end."""
    stream, options = body.get("stream"), body.get("stream_options")
    if stream is not None and not isinstance(stream, bool):
        raise invalid_request("'stream' must be a boolean.", "stream", "invalid_type")
    if options is None:
        return bool(stream), False
    if not isinstance(options, dict):
        raise invalid_request(
            "'stream_options' must be an object.", "stream_options", "invalid_type"
        )
    if not stream:
        raise invalid_request(
            "'stream_options' is only allowed when 'stream' is true.", "stream_options"
        )
    return True, options.get("include_usage") is True


class _Told(NamedTuple):
    """The texts of the messages."""

    said: str
    tokens: int
    cached_tokens: int
    answered: bool


def _read_messages(body: dict[str, Any]) -> _Told:
    if "messages" not in body:
        raise invalid_request("'messages' is missing.", "messages", "missing_required_parameter")
    messages = body["messages"]
    if not isinstance(messages, list):
        raise invalid_request("'messages' must be an array.", "messages", "invalid_type")
    if not messages:
        raise invalid_request("'messages' is empty.", "messages", "empty_array")
    said = last = ""
    role: object = None
    tokens = PRIMING_TOKENS
    shared = 0  # the tokens of the messages that instruct, at the beginning
    instructs = True
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if not isinstance(message, dict):
            raise invalid_request(f"'{where}' must be an object.", where, "invalid_type")
        role = message.get("role")
        if not isinstance(role, str):
            raise invalid_request(
                f"'{where}.role' must be a string.", f"{where}.role", "invalid_type"
            )
        last = _read_content(message.get("content"), f"{where}.content")
        tokens += MESSAGE_TOKENS + count_tokens(last)
        if role == "user":
            said = last
        if instructs and role in _INSTRUCTING:
            shared = tokens
        else:
            instructs = False
    cached = shared - shared % CACHED_STEP if shared >= CACHED_MIN else 0
    return _Told(said or last, tokens, cached, role == "tool")


def _read_content(content: object, where: str) -> str:
    if isinstance(content, str):
        return content
    if content is None:
        return ""
    if not isinstance(content, list):
        raise invalid_request(
            f"'{where}' must be a string, an array of parts or null.", where, "invalid_type"
        )
    texts = []
    for index, part in enumerate(content):
        if not isinstance(part, dict):
            spot = f"{where}[{index}]"
            raise invalid_request(f"'{spot}' must be an object.", spot, "invalid_type")
        text = part.get("text")
        if isinstance(text, str):
            texts.append(text)
    return "\n".join(texts)


def _read_word(body: dict[str, Any], name: str, words: Container[str]) -> str | None:
    value = body.get(name)
    if value is None or (isinstance(value, str) and value in words):
        return value
    raise invalid_request(f"'{name}' cannot be {value!r}.", name, "invalid_value")


def _read_logprobs(body: dict[str, Any]) -> int | None:
    """How many alternatives to tell per token; None where log probabilities are not asked for."""
    wanted, top = body.get("logprobs"), body.get("top_logprobs")
    if wanted is not None and not isinstance(wanted, bool):
        raise invalid_request("'logprobs' must be a boolean.", "logprobs", "invalid_type")
    if top is None:
        return 0 if wanted else None
    if type(top) is not int or not 0 <= top <= TOP_MAX:
        raise invalid_request(
            f"'top_logprobs' must be an integer between 0 and {TOP_MAX}.",
            "top_logprobs",
            "invalid_value",
        )
    if not wanted:
        raise invalid_request(
            "'top_logprobs' is only allowed when 'logprobs' is true.", "top_logprobs"
        )
    return top


def _read_count(body: dict[str, Any], name: str, *, most: int | None = None) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise invalid_request(f"'{name}' must be an integer.", name, "invalid_type")
    if value < 1 or (most is not None and value > most):
        bounds = "at least 1" if most is None else f"between 1 and {most}"
        raise invalid_request(f"'{name}' must be {bounds}, not {value}.", name, "invalid_value")
    return value
