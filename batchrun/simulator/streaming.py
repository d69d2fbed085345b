"""The answer as a stream: its chunks, how they are framed as events, and what can go wrong."""

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from batchrun.simulator import faults
from batchrun.simulator.completion import Answer, Said, logprobs_of
from batchrun.simulator.tools import Call

EVENT_STREAM = "text/event-stream"
DONE = b"[DONE]"
ERROR = (
    b'{"error":{"message":"The model broke down while it answered.","type":"server_error",'
    b'"param":null,"code":500}}'
)

_JSON = msgspec.json.Encoder()
_PIECES = re.compile(r"\s*\S{1,8}|\s+")  # about what a token is
_ARGUMENT_PIECES = re.compile(r".{1,6}", re.DOTALL)  # torn anywhere, in escapes too
_BOM = b"\xef\xbb\xbf"


def pieces_of(text: str) -> list[str]:
    """A text in pieces of at most eight characters and the white space before them."""
    return _PIECES.findall(text)


def write_chunks(
    answer: Answer, completion_id: str, created: int, system_fingerprint: str
) -> list[bytes]:
    """The chunks of an answer as JSON, in the order in which OpenAI sends them.

    Each choice is opened by a chunk with the role, those of several choices alternate, each ends
    by a chunk with the finish reason; usage comes last, where it was asked for.
    """
    usage = answer.request.include_usage

    def chunk(*choices: dict[str, Any], counts: dict[str, Any] | None = None) -> bytes:
        value = {
            "id": completion_id,
            "object": "chat.completion.chunk",
            "created": created,
            "model": answer.request.model,
            "service_tier": answer.request.service_tier,
            "system_fingerprint": system_fingerprint,
            "choices": choices,
        }
        return _JSON.encode(value | {"usage": counts} if usage else value)

    chunks = [
        chunk(
            {
                "index": index,
                "delta": part.delta,
                "logprobs": part.logprobs,
                "finish_reason": part.finish_reason,
            }
        )
        for index, part in _in_turns([_parts(said, answer) for said in answer.choices])
    ]
    if usage:
        chunks.append(chunk(counts=answer.usage()))
    return chunks


class _Part(NamedTuple):
    """What a chunk brings for a choice."""

    delta: dict[str, Any]
    logprobs: dict[str, Any] | None = None
    finish_reason: str | None = None


def _parts(said: Said, answer: Answer) -> Iterator[_Part]:
    """What the model says in one choice, as it generates it."""
    yield _Part(_opening(said, answer))
    field = answer.reasoning_field
    if field is not None and said.reasoning is not None:
        for piece in pieces_of(said.reasoning):
            yield _Part({field: piece})
    name = "content" if said.refusal is None else "refusal"
    text = said.content if said.refusal is None else said.refusal
    if said.logprobs:
        # Token by token, each with its own.
        for entry in said.logprobs:
            yield _Part({name: entry["token"]}, logprobs_of(said, [entry]))
    elif text:
        for piece in pieces_of(text):
            yield _Part({name: piece})
    for index, call in enumerate(said.calls):
        if not _opens_with_call(said, answer):
            yield _Part(_call_begun(index, call))
        for piece in _ARGUMENT_PIECES.findall(call.arguments):
            yield _Part(_call_delta(index, call, call.part(None, piece)))
    yield _Part({}, finish_reason=said.finish_reason)


def _opening(said: Said, answer: Answer) -> dict[str, Any]:
    """The first delta: the role, and empty text where text will come first."""
    told = answer.reasoning_field is not None and said.reasoning is not None
    opening: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
    if said.refusal is not None:
        opening["refusal"] = ""
    elif said.content is not None and not told:
        opening["content"] = ""
    elif _opens_with_call(said, answer):
        opening |= _call_begun(0, said.calls[0])
    return opening


def _opens_with_call(said: Said, answer: Answer) -> bool:
    """Whether one call is all that is said: it begins in the first chunk then."""
    told = answer.reasoning_field is not None and said.reasoning is not None
    return len(said.calls) == 1 and said.content is None and not told


def _call_begun(index: int, call: Call) -> dict[str, Any]:
    """A call's first fragment: all but its arguments."""
    named = call.part(call.name, "")
    return _call_delta(index, call, named if call.legacy else _identity(call) | named)


def _identity(call: Call) -> dict[str, Any]:
    return {"id": call.id, "type": call.type}


def _call_delta(index: int, call: Call, part: dict[str, Any]) -> dict[str, Any]:
    if call.legacy:
        return {"function_call": part["function"]}
    return {"tool_calls": [{"index": index} | part]}


def write_events(chunks: Sequence[bytes], fault: str | None) -> list[bytes]:
    """The events that are sent, each as its bytes, with what the fault makes of them."""
    half = len(chunks) // 2
    match fault:
        case faults.STREAM_END | faults.STREAM_STALL:
            return [_event(chunk) for chunk in chunks[:half]]
        case faults.STREAM_ERROR:
            return [_event(data) for data in (*chunks[:half], ERROR, DONE)]
        case faults.NO_DONE:
            return [_event(chunk) for chunk in chunks]
        case faults.ODD_FRAMING:
            return list(_odd_events(chunks))
        case _:
            return [_event(data) for data in (*chunks, DONE)]


def _event(data: bytes) -> bytes:
    return b"data: %b\n\n" % data


def _odd_events(chunks: Sequence[bytes]) -> Iterator[bytes]:
    """All the framing that the format allows and few servers use: a byte-order mark, comments,
    other line ends, ids, data over several lines, and a last event that is not ended.
    """
    yield _BOM + b": the stream begins\r\n\r\n"
    for number, chunk in enumerate(chunks):
        before, key, behind = chunk.partition(b'"choices":')
        match number % 4:
            case 0:
                yield b"id: %d\r\nevent: message\r\ndata:%b\r\ndata:%b%b\r\n\r\n" % (
                    number, before, key, behind,
                )  # fmt: skip
            case 1:
                yield b": keep-alive\n\ndata:%b\n\n" % chunk
            case 2:
                yield b"data: %b\r\r" % chunk
            case _:
                yield b"retry: 1000\r\ndata: %b\r\n\r\n\r\n" % chunk
    yield b"data: " + DONE


def _in_turns(choices: Sequence[Iterator[_Part]]) -> Iterator[tuple[int, _Part]]:
    """One part of each, until all are used up."""
    left = dict(enumerate(choices))
    while left:
        for index, parts in list(left.items()):
            part = next(parts, None)
            if part is None:
                del left[index]
            else:
                yield index, part
