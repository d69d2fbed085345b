"""Tools: what a request offers and asks for, and the calls that the simulated model makes.

`tool_choice` is honoured as OpenAI does: `none` gives text, `required` at least one call, a named
tool one call of it, and with `auto` the model decides: about half of the requests get calls, but
none if the last message is a tool's result. Without `parallel_tool_calls: false` there may be
several. About every fourth answer with calls also has text, unless calls were required. The older
`functions` and `function_call` are honoured in the same way, with one call at most.
"""

import re
from dataclasses import dataclass
from typing import Any

import msgspec

from batchrun.simulator.rejections import invalid_request
from batchrun.simulator.writing.documents import write_document
from batchrun.simulator.writing.draws import Chance
from batchrun.simulator.writing.tokens import count_tokens

TOOLS_MAX = 128
CALLS_MAX = 3
NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_ID_CHARS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_NOTHING = {"type": "object"}
_WORDS = ("auto", "none", "required")


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that may be called: a function with a schema, or one that takes text as it is."""

    name: str
    custom: bool = False
    parameters: object = None


@dataclass(frozen=True, slots=True)
class ToolUse:
    """What a request offers, and what it says about calls."""

    tools: tuple[Tool, ...]  # those that may be called: of a named choice the one
    choice: str  # one of `auto`, `none`, `required`, `named`
    parallel: bool
    tokens: int  # what the definitions add to the prompt
    legacy: bool = False  # the older protocol's functions


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a tool; `arguments` is the input of a custom one."""

    id: str
    name: str
    arguments: str
    custom: bool = False
    legacy: bool = False

    @property
    def type(self) -> str:
        """What the protocol calls this kind of call, and the key under which its rest stands."""
        return "custom" if self.custom else "function"

    def part(self, name: str | None, arguments: str) -> dict[str, Any]:
        """The rest of the call, or a piece of it, under the key of its kind."""
        field = "input" if self.custom else "arguments"
        named = {} if name is None else {"name": name}
        return {self.type: named | {field: arguments}}

    def value(self) -> dict[str, Any]:
        """The call as a plain reply has it among its tool calls."""
        return {"id": self.id, "type": self.type} | self.part(self.name, self.arguments)

    def tokens(self) -> int:
        """What the model generated for it."""
        return count_tokens(self.name) + count_tokens(self.arguments)


def read_tools(body: dict[str, Any]) -> ToolUse | None:
    """The tools of a request body; None where it offers none. Raises RejectedError (400)."""
    listed, choice, parallel = (
        body.get(name) for name in ("tools", "tool_choice", "parallel_tool_calls")
    )
    if listed is None and body.get("functions") is not None:
        return _read_functions(body["functions"], body.get("function_call"))
    if listed is None:
        for name in ("tool_choice", "parallel_tool_calls"):
            if body.get(name) is not None and body[name] != "none":
                raise invalid_request(f"'{name}' is only allowed when 'tools' are given.", name)
        return None
    if not isinstance(listed, list):
        raise invalid_request("'tools' must be an array.", "tools", "invalid_type")
    if not 1 <= len(listed) <= TOOLS_MAX:
        raise invalid_request(
            f"'tools' must have 1 to {TOOLS_MAX} entries, not {len(listed)}.",
            "tools",
            "array_above_max_length" if listed else "empty_array",
        )
    if parallel is not None and not isinstance(parallel, bool):
        raise invalid_request(
            "'parallel_tool_calls' must be a boolean.", "parallel_tool_calls", "invalid_type"
        )
    tools = tuple(_read_tool(tool, f"tools[{index}]") for index, tool in enumerate(listed))
    word, offered = _read_choice(choice, tools)
    tokens = count_tokens(msgspec.json.encode(listed).decode())
    return ToolUse(offered, word, parallel is not False, tokens)


def _read_functions(listed: object, choice: object) -> ToolUse:
    """The same by the older protocol."""
    if not isinstance(listed, list) or not listed:
        raise invalid_request("'functions' must be an array.", "functions", "invalid_type")
    wrapped = [{"type": "function", "function": function} for function in listed]
    tools = tuple(_read_tool(tool, f"functions[{n}]") for n, tool in enumerate(wrapped))
    if isinstance(choice, dict):
        choice = {"type": "function", "function": choice}
    word, offered = _read_choice(choice, tools)
    tokens = count_tokens(msgspec.json.encode(listed).decode())
    return ToolUse(offered, word, parallel=False, tokens=tokens, legacy=True)


def _read_tool(tool: object, where: str) -> Tool:
    if not isinstance(tool, dict):
        raise invalid_request(f"'{where}' must be an object.", where, "invalid_type")
    kind = tool.get("type")
    if kind not in ("function", "custom"):
        raise invalid_request(
            f"'{where}.type' must be 'function' or 'custom'.", f"{where}.type", "invalid_value"
        )
    name = _read_name(tool.get(kind), f"{where}.{kind}")
    if kind == "custom":
        return Tool(name, custom=True)
    parameters = tool[kind].get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        spot = f"{where}.function.parameters"
        raise invalid_request(f"'{spot}' must be a JSON Schema.", spot, "invalid_type")
    return Tool(name, parameters=parameters)


def _read_name(holder: object, where: str) -> str:
    if not isinstance(holder, dict):
        raise invalid_request(f"'{where}' is missing.", where, "missing_required_parameter")
    name = holder.get("name")
    if not isinstance(name, str) or NAME.fullmatch(name) is None:
        spot = f"{where}.name"
        raise invalid_request(
            f"'{spot}' must be 1 to 64 letters, digits, underscores or dashes.",
            spot,
            "invalid_value",
        )
    return name


def _read_choice(choice: object, tools: tuple[Tool, ...]) -> tuple[str, tuple[Tool, ...]]:
    """What is said about calls, and the tools that may be called."""
    if choice is None:
        return "auto", tools
    if isinstance(choice, str):
        if choice in _WORDS:
            return choice, tools
    elif isinstance(choice, dict) and (kind := choice.get("type")) in ("function", "custom"):
        name = _read_name(choice.get(kind), f"tool_choice.{kind}")
        for tool in tools:
            if tool.name == name and tool.custom == (kind == "custom"):
                return "named", (tool,)
        raise invalid_request(f"Tool choice '{name}' is not in 'tools'.", "tool_choice")
    raise invalid_request(
        "'tool_choice' must be 'none', 'auto', 'required' or name a tool.",
        "tool_choice",
        "invalid_value",
    )


def write_calls(
    use: ToolUse, key: bytes, digest: bytes, index: int, quote: str, *, answered: bool
) -> tuple[tuple[Call, ...], bool]:
    """The calls in choice `index` of an answer, and whether text stands beside them.

    `quote` is what the user said; `answered` that a tool has given its result. Without calls there
    is always text.
    """
    chance = Chance(key, digest, index, b"calls")
    auto = use.choice == "auto"
    decided, beside = chance.below(2) == 1, chance.below(4) == 0
    if use.choice == "none" or (auto and (answered or not decided)):
        return (), True
    several = use.parallel and use.choice != "named"
    count = 1 + chance.below(CALLS_MAX) if several else 1
    calls = []
    for _ in range(count):
        tool = use.tools[chance.below(len(use.tools))]
        id_ = "".join([_ID_CHARS[chance.below(len(_ID_CHARS))] for _ in range(24)])
        text = quote if tool.custom else write_document(tool.parameters or _NOTHING, chance)
        calls.append(Call(f"call_{id_}", tool.name, text, tool.custom, use.legacy))
    return tuple(calls), auto and beside
