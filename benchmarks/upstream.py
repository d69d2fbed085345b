"""A chat-completions server that costs as little as Python can, for clients to be measured against.

It answers every POST with the same completion, whatever was asked, over HTTP/1.1 with keep-alive
and pipelining, and reads no more of a request than its length. It does not judge, limit or fail;
`batchrun simulate` is the server that does. Loopback only. On SIGTERM it prints its account: what
arrived and was answered, how much of it at once, and when, as one JSON line.
"""

import argparse
import asyncio
import json
import os
import signal
import ssl
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import cast

import uvloop

HEAD_END = b"\r\n\r\n"
REFUSAL = b"HTTP/1.1 411 Length Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


SENTENCE = "The parcel left the warehouse on Tuesday and arrives within three days. "


def completion(reply_bytes: int) -> bytes:
    """One whole HTTP response whose answer's content is `reply_bytes` bytes long."""
    content = (SENTENCE * (reply_bytes // len(SENTENCE) + 1))[:reply_bytes]
    body = json.dumps(
        {
            "id": "chatcmpl-fixed",
            "object": "chat.completion",
            "created": 1_760_000_000,
            "model": "m",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": content, "refusal": None},
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ],
            "usage": {
                "prompt_tokens": 90,
                "completion_tokens": reply_bytes // 4,
                "total_tokens": 90 + reply_bytes // 4,
            },
        }
    ).encode()
    head = (
        f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def stream(reply_bytes: int, chunks: int) -> bytes:
    """The same answer as a stream: an opening chunk, `chunks` of text, and the end with finish
    reason, usage and `[DONE]`. Every event is an HTTP chunk of its own, as servers send them.

    It goes out in one write. With a write for each event this server would be slower than its
    client, which would then be measured waking up for single replies.
    """
    content = (SENTENCE * (reply_bytes // len(SENTENCE) + 1))[:reply_bytes]
    cuts = [reply_bytes * place // chunks for place in range(chunks + 1)]
    texts = [content[start:end] for start, end in pairwise(cuts)]
    usage = {
        "prompt_tokens": 90,
        "completion_tokens": reply_bytes // 4,
        "total_tokens": 90 + reply_bytes // 4,
    }
    said = [event({"content": text}) for text in texts]
    head = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    opening = head + event({"role": "assistant", "content": ""})
    ending = [event({}, finish_reason="stop"), event(None, usage=usage), framed(b"[DONE]")]
    return b"".join([opening, *said, *ending]) + b"0\r\n\r\n"


def event(
    delta: dict[str, str] | None,
    *,
    finish_reason: str | None = None,
    usage: dict[str, int] | None = None,
) -> bytes:
    """One chunk of a completion as an event."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    chunk = {
        "id": "chatcmpl-fixed",
        "object": "chat.completion.chunk",
        "created": 1_760_000_000,
        "model": "m",
        "system_fingerprint": None,
        "choices": [] if delta is None else [choice],
        "usage": usage,
    }
    return framed(json.dumps(chunk, separators=(",", ":")).encode())


def framed(data: bytes) -> bytes:
    """Data as an event, in an HTTP chunk."""
    return b"%x\r\ndata: %b\n\n\r\n" % (len(data) + 8, data)


@dataclass(slots=True)
class Account:
    """What this server saw. Times are those of a monotonic clock."""

    connections: int = 0
    requests: int = 0
    answered: int = 0
    in_flight: int = 0
    in_flight_max: int = 0
    first_request_s: float = 0.0
    last_answer_s: float = 0.0


class FixedReply(asyncio.Protocol):
    """One connection: counts the requests that have arrived whole, and answers each."""

    def __init__(self, response: bytes, latency_s: float, account: Account) -> None:
        self._response = response
        self._latency_s = latency_s
        self._account = account
        self._clock = asyncio.get_running_loop().time
        self._pending = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        self._transport = cast("asyncio.Transport", transport)
        self._account.connections += 1

    def data_received(self, data: bytes) -> None:
        """Take whole requests off the front of what has arrived; the rest waits for more."""
        data = self._pending + data if self._pending else data
        start = requests = 0
        while (head_end := data.find(HEAD_END, start)) >= 0:
            head = data[start:head_end].lower()
            if b"\r\ntransfer-encoding:" in head:
                self._transport.write(REFUSAL)
                self._transport.close()
                return
            at = head.find(b"\r\ncontent-length:")
            length = int(head[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            end = head_end + len(HEAD_END) + length
            if end > len(data):
                break
            start = end
            requests += 1
        self._pending = data[start:]
        if requests:
            self._answer(requests)

    def _answer(self, requests: int) -> None:
        account = self._account
        if not account.requests:
            account.first_request_s = self._clock()
        account.requests += requests
        account.in_flight += requests
        account.in_flight_max = max(account.in_flight_max, account.in_flight)
        if self._latency_s:
            # One latency for all: timers fire in the order they were set, so answers stay in order.
            asyncio.get_running_loop().call_later(self._latency_s, self._reply, requests)
        else:
            self._reply(requests)

    def _reply(self, requests: int) -> None:
        account = self._account
        account.in_flight -= requests
        if not self._transport.is_closing():
            self._transport.write(self._response * requests)
            account.answered += requests
            account.last_answer_s = self._clock()


async def serve(
    port: int, response: bytes, latency_s: float, tls: ssl.SSLContext | None = None
) -> None:
    """Listen until SIGTERM; prints the base URL first, and the account at the end."""
    account, ended, loop = Account(), asyncio.Event(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    server = await loop.create_server(
        lambda: FixedReply(response, latency_s, account), "127.0.0.1", port, backlog=1024, ssl=tls
    )
    scheme = "http" if tls is None else "https"
    print(f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await ended.wait()
    server.close()
    print(json.dumps(asdict(account)), flush=True)


def main() -> None:
    """Read the flags, take the core, serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--reply-bytes", type=int, default=2048, help="length of each answer")
    parser.add_argument("--latency", type=float, default=0.0, metavar="S", help="before each reply")
    parser.add_argument(
        "--stream", type=int, metavar="CHUNKS", help="stream each answer in so many chunks"
    )
    parser.add_argument("--tls", nargs=2, metavar=("CHAIN", "KEY"), help="speak TLS")
    parser.add_argument("--core", type=int, help="the only one to run on")
    options = parser.parse_args()
    if options.stream:
        response = stream(options.reply_bytes, options.stream)
    else:
        response = completion(options.reply_bytes)
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})
    tls = None
    if options.tls is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(*options.tls)
    uvloop.run(serve(options.port, response, options.latency, tls))


if __name__ == "__main__":
    main()
