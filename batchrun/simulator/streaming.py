"""The answer as a stream: its chunks, how they are framed as events, and what can go wrong."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from batchrun.simulator import faults
from batchrun.simulator.completion import Answer, call_id
from batchrun.simulator.text import Passage

EVENT_STREAM = "text/event-stream"
DONE = b"[DONE]"
ERROR = (
    b'{"error":{"message":"The model broke down while it answered.","type":"server_error",'
    b'"param":null,"code":500}}'
)

_JSON = msgspec.json.Encoder()
_PIECES = re.compile(r"\s*\S{1,8}|\s+")  # about what a token is
_BOM = b"\xef\xbb\xbf"


def pieces_of(text: str) -> list[str]:
    """A text in pieces of at most eight characters and the white space before them."""
    return _PIECES.findall(text)


def write_chunks(
    answer: Answer, completion_id: str, created: int, system_fingerprint: str
) -> list[bytes]:
    """The chunks of an answer as JSON, in the order in which OpenAI sends them.

    Each choice is opened by a chunk with the role, the texts of several choices alternate, each
    ends by a chunk with the finish reason; usage comes last, where it was asked for.
    """
    usage = answer.request.include_usage

    def chunk(*choices: dict[str, Any], counts: dict[str, Any] | None = None) -> bytes:
        value = {
            "id": completion_id,
            "object": "chat.completion.chunk",
            "created": created,
            "model": answer.request.model,
            "service_tier": "default",
            "system_fingerprint": system_fingerprint,
            "choices": choices,
        }
        return _JSON.encode(value | {"usage": counts} if usage else value)

    def choice(index: int, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        return chunk(
            {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        )

    legacy = answer.request.tool is not None and answer.request.tool.legacy
    chunks = [
        choice(index, _opening(passage, completion_id, legacy=legacy))
        for index, passage in enumerate(answer.passages)
    ]
    texts = [iter(pieces_of(passage.content)) for passage in answer.passages]
    chunks += [
        choice(index, _delta(answer.passages[index], text, legacy=legacy))
        for index, text in _in_turns(texts)
    ]
    chunks += [
        choice(index, {}, passage.finish_reason) for index, passage in enumerate(answer.passages)
    ]
    if usage:
        chunks.append(chunk(counts=answer.usage()))
    return chunks


def _opening(passage: Passage, completion_id: str, *, legacy: bool) -> dict[str, Any]:
    """What the first chunk of a choice tells."""
    delta: dict[str, Any] = {"role": "assistant", "content": "", "refusal": None}
    if passage.calls is None:
        return delta
    function = {"name": passage.calls, "arguments": ""}
    delta["content"] = None
    if legacy:
        return {**delta, "function_call": function}
    call = {"index": 0, "id": call_id(completion_id), "type": "function", "function": function}
    return {**delta, "tool_calls": [call]}


def _delta(passage: Passage, text: str, *, legacy: bool) -> dict[str, Any]:
    """What a later chunk adds."""
    if passage.calls is None:
        return {"content": text}
    if legacy:
        return {"function_call": {"arguments": text}}
    return {"tool_calls": [{"index": 0, "function": {"arguments": text}}]}


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


def _in_turns(texts: Sequence[Iterator[str]]) -> Iterator[tuple[int, str]]:
    """One piece of each, until all are used up."""
    left = dict(enumerate(texts))
    while left:
        for index, text in list(left.items()):
            piece = next(text, None)
            if piece is None:
                del left[index]
            else:
                yield index, piece
