"""A streamed answer folded into the plain reply that it stands for.

The result is JSON in the shape of a plain completion, so that one reader and one table of verdicts
serve both ways, and the same answer has the same columns streamed or not (docs/adr/0014).

Most events are read by the quick ways of ``core.stream.fast_chunk``, all others with care: every
field is taken if it has the type that it should have, and nothing else is expected of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import Any

from batchrun.core.reply import completion as reading
from batchrun.core.stream import sse, stream_json
from batchrun.core.stream.choice_deltas import ChoiceDeltas
from batchrun.core.stream.fast_chunk import AT_ONCE, Shape, read_plain, shape_of
from batchrun.core.stream.stream_errors import is_error, may_be_error
from batchrun.core.stream.tool_deltas import integer
from batchrun.core.text.storable import json_text

JsonObject = dict[str, Any]

_DONE = b"[DONE]"
_LAST_LINE = b"data: [DONE]"
_HEAD = ("id", "created", "model", "service_tier", "system_fingerprint")
_head_of = attrgetter(*_HEAD)
_NOT_KEPT = frozenset((*_HEAD, "object", "choices", "usage", "error", "obfuscation"))
FED_BYTES = 2**16
_LEARNED_MAX = 4
"""How often a repeated shape is looked for in vain before the search is given up."""


class Stream:
    """Takes a stream's bytes, cut anywhere, and gives the reply they make.

    ``done`` says that the server has announced the end. Any bytes can be fed; nothing is raised.
    What is held is the answer so far and the event that is still arriving.
    """

    __slots__ = (
        "_choices",
        "_damaged",
        "_error",
        "_first",
        "_head",
        "_learned",
        "_named",
        "_other",
        "_remark",
        "_repeated",
        "_splitter",
        "_suspect",
        "_usage",
        "done",
    )

    def __init__(self) -> None:
        self._splitter = sse.Splitter()
        self._choices: dict[int, ChoiceDeltas] = {}
        self._first: ChoiceDeltas | None = None
        self._head: JsonObject = {}
        self._other: JsonObject = {}
        self._usage: JsonObject | None = None
        self._error: object = None
        self._suspect: JsonObject | None = None
        self._remark = b""
        self._damaged = False
        self._repeated: Shape | None = None
        self._learned = 0
        self._named = False
        self.done = False

    @property
    def begun(self) -> bool:
        """Whether anything that the model said has arrived."""
        first = self._first
        if first is not None and first.content:
            return True
        return any(choice.begun for choice in self._choices.values())

    def feed(self, piece: bytes) -> None:
        """Take the next bytes."""
        block = self._splitter.feed(piece)
        if not block:
            return
        lines = block.split(b"\n")
        at, count = 0, len(lines)
        while at < count and not self.done:
            if not lines[at]:
                at += 1
                continue
            if self._repeated is not None and (taken := self._take_repeated(lines, at)):
                at += 2 * taken
                continue
            end = at + 1
            while end < count and lines[end]:
                end += 1
            if end - at == 1:
                self._take_line(lines[at])
            else:
                self._take(lines[at:end])
            at = end + 1

    def end(self) -> None:
        """The stream is over: what came after the last blank line is an event too."""
        if not self._splitter.idle:
            rest, self._splitter = self._splitter.rest(), sse.Splitter()
            if rest and not self.done:
                damaged, remark = self._damaged, self._remark
                self._take([line for line in rest.split(b"\n") if line])
                # Torn at its end, it says nothing about the events before it.
                if self._damaged:
                    self._damaged, self._remark = damaged, remark
        if self._suspect is not None and not self._finished():
            self._fail(self._suspect)

    def _finished(self) -> bool:
        choices = self._choices.values()
        return bool(choices) and all(choice.finish for choice in choices)

    def problem(self) -> str | None:
        """Why the answer cannot be taken for whole; None where it can, or where the server sent
        an error, which decides by itself. To be asked after ``end``.
        """
        if self._error is not None:
            return None
        if self._damaged:
            return "an event of the stream cannot be read"
        if self.done or self._finished():
            return None
        if self.begun:
            return "the stream ended in the middle of the answer"
        return "the stream ended before an answer began"

    def remark(self) -> str:
        """The last thing in the stream that was no part of an answer, on one line; or nothing."""
        return " ".join(self._remark.decode(errors="replace").split())

    def body(self) -> bytes:
        """The reply in the shape of a plain one: a completion, and an error where one came.

        Half an answer has this shape too; ``problem`` tells.
        """
        choices = [self._choices[index].value(index) for index in sorted(self._choices)]
        value = stream_json.completion(self._head, choices, self._usage, self._other)
        if self._error is not None:
            # First, so that it is in what is kept of a failed row's reply.
            value = {"error": self._error, **value}
        return stream_json.write(value)

    # The quick ways

    def _take_repeated(self, lines: list[bytes], at: int) -> int:
        """Take the events of one line from there on that are like the one before; returns how
        many they are.
        """
        shape, self._repeated = self._repeated, None
        if shape is None or not lines[at].startswith(shape.before):
            return 0
        taken, text = shape.take(lines[at : at + 2 * AT_ONCE : 2])
        if not taken or any(lines[at + 1 : at + 2 * taken : 2]):
            return 0
        self._repeated = shape
        self._take_text(text)
        return taken

    def _take_text(self, text: str) -> None:
        assert self._first is not None
        if text:
            self._first.content.append(text)
        self._learned = 0

    def _take_line(self, line: bytes) -> None:
        """Take an event of one line."""
        if line == _LAST_LINE:
            self.done = True
        elif not (line[:5] == b"data:" and self._takes_plain(line)) and line[:1] != b":":
            self._take([line])

    def _takes_plain(self, line: bytes) -> bool:
        # What is repeated says nothing new only as long as nothing else comes between.
        self._repeated = None
        chunk = read_plain(line[5:])
        if chunk is None:
            return False
        content = None
        if chunk.choices:
            chosen = chunk.choices[0]
            delta, first = chosen.delta, self._first
            content = delta.content
            if first is None:
                first = self._first = self._choices[0] = ChoiceDeltas()
            elif first.parts is not None:
                return False
            if content and delta.role is None:
                first.content.append(content)
            elif content == "" and delta.role is not None:
                first.open()
            elif content is not None:
                first.add({"role": delta.role, "content": content})
            if (finish := chosen.finish_reason) and (finish := reading.finish_reason(finish)):
                first.finish = finish
        if chunk.usage:
            self._usage = chunk.usage
        if not self._named or chunk.service_tier or chunk.system_fingerprint:
            self._take_head(_head_of(chunk))
        if content and self._learned < _LEARNED_MAX:
            self._learned += 1
            self._repeated = shape_of(line)
        return True

    # The careful way

    def _take(self, event: list[bytes]) -> None:
        self._repeated = None
        name, data, unknown = sse.read_event(event)
        self._remark = unknown[: reading.ERROR_TEXT_MAX] or self._remark
        if not data:
            return
        if len(data) > 1 and self._takes_datum(name, b"\n".join(data)):
            return
        # Several events whose blank lines were forgotten, or just one line.
        for datum in data:
            if self.done or self._takes_datum(name, datum):
                continue
            lines = datum.split(b"\n")
            if len(lines) == 1 or not all(self._takes_datum(name, line) for line in lines):
                self._damaged, self._remark = True, datum[: reading.ERROR_TEXT_MAX]

    def _takes_datum(self, name: str, datum: bytes) -> bool:
        """Take an event's data. False where it looks like JSON and cannot be read."""
        text = datum.strip()
        if text in (_DONE, b'"[DONE]"'):
            self.done = True
            return True
        if not text:
            return True
        value = stream_json.read(text)
        if value is stream_json.UNREADABLE:
            if name == "error":
                self._fail(reading.text_of(text, reading.ERROR_TEXT_MAX))
            # Other text is what some servers keep the connection alive with.
            self._remark = text[: reading.ERROR_TEXT_MAX]
            return name == "error" or (text[:1] not in (b"{", b"[") and b"\n" not in text)
        for item in value if isinstance(value, list) else (value,):
            if isinstance(item, dict):
                self._take_object(name, item)
            elif name == "error":
                self._fail(item)
        return True

    def _take_object(self, name: str, value: JsonObject) -> None:
        self._take_errors(name, value)
        groq, usage = value.get("x_groq"), value.get("usage")
        if not usage and isinstance(groq, dict):
            usage = groq.get("usage")
        choices = value.get("choices")
        if isinstance(choices, list):
            self._take_head(map(value.get, _HEAD))
            for key, item in value.items():
                if key not in _NOT_KEPT and item is not None:
                    self._other[key] = item
            for place, item in enumerate(choices):
                if isinstance(item, dict):
                    whole = value.get("object") == "chat.completion"
                    usage = self._take_choice(item, place, whole=whole) or usage
        else:
            self._damage(choices)
        if isinstance(usage, dict) and usage:
            self._usage = usage

    def _take_head(self, values: Iterable[object]) -> None:
        """Take what all chunks say of the answer: the first that says it counts, as servers give
        every chunk a time of its own, and empty values to chunks that are none.
        """
        head = self._head
        for key, given in zip(_HEAD, values, strict=True):
            if given and key not in head:
                head[key] = given
        self._named = "id" in head and "created" in head and "model" in head

    def _take_errors(self, name: str, value: JsonObject) -> None:
        groq = value.get("x_groq")
        if error := value.get("error"):
            self._fail(error)
        elif isinstance(groq, dict) and groq.get("error"):
            self._fail(groq["error"])
        elif name == "error" or (not isinstance(value.get("choices"), list) and is_error(value)):
            self._fail(value)
        elif may_be_error(value, self._suspect):
            # Not surely an error: it counts as one where the answer has no finish reason.
            self._suspect = value

    def _take_choice(self, item: JsonObject, place: int, *, whole: bool) -> object:
        """Take a choice of one chunk; returns the usage where it has one."""
        index = integer(item.get("index"))
        if index is None or not 0 <= index < 2**31:
            index = place
        choice = self._choices.get(index)
        if choice is None:
            choice = self._choices[index] = ChoiceDeltas()
            if index == 0:
                self._first = choice
        self._take_delta(choice, item, whole=whole)
        if finish := reading.finish_reason(item.get("finish_reason")):
            choice.finish = finish
        logprobs = item.get("logprobs")
        if isinstance(logprobs, dict):
            choice.add_logprobs(logprobs)
        if error := item.get("error"):
            self._fail(error)
        for key, value in item.items():
            if key not in _CHOICE_FIELDS:
                choice.note(key, value)
        return item.get("usage")

    def _take_delta(self, choice: ChoiceDeltas, item: JsonObject, *, whole: bool) -> None:
        delta, message = item.get("delta"), item.get("message")
        if isinstance(delta, dict):
            choice.add(delta)
        if isinstance(message, dict):
            choice.add_message(message, final=whole)
        elif not isinstance(delta, dict):
            # What the model said, in a place where nobody can tell what it is.
            self._damage(delta or message or item.get("text"))

    def _damage(self, value: object) -> None:
        if value:
            said = json_text(value)[: reading.ERROR_TEXT_MAX]
            self._damaged, self._remark = True, said.encode(errors="replace")

    def _fail(self, error: object) -> None:
        if self._error is None:
            known = isinstance(error, (dict, str)) and error
            self._error = error if known else {"message": json_text(error)}


_CHOICE_FIELDS = frozenset("index delta message finish_reason logprobs error usage".split())


def fold(body: bytes) -> Stream:
    """A stream that has arrived whole."""
    stream = Stream()
    for start in range(0, len(body), FED_BYTES):
        stream.feed(body[start : start + FED_BYTES])
    stream.end()
    return stream
