"""A server in the place of llama.cpp's wheel, for tests of how batchrun starts and stops it: the
names that ``batchrun.adapters.local_model.llama_process`` uses, and real HTTP.

The file that ``FAKE_LLAMA`` names is JSON: ``pid`` is a file for the process's number. With
``refuse`` it does not start, with ``hang`` starting takes for ever, with ``crash_at`` it ends by a
signal at that request, while the file ``hold`` exists no request is answered.
"""

# mypy: ignore-errors

import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

PLAN = json.loads(Path(os.environ["FAKE_LLAMA"]).read_text("utf-8"))


def CommonParams():  # noqa: N802 - the wheel's name
    """Options with the attributes that have attributes of their own."""
    return SimpleNamespace(
        model=SimpleNamespace(), cpuparams=SimpleNamespace(), cpuparams_batch=SimpleNamespace()
    )


class Server:
    """Serves from its making until the process ends."""

    def __init__(self, options):
        Path(PLAN["pid"]).write_text(str(os.getpid()), "utf-8")
        if not Path(options.model.path).is_file():
            message = "no weights"
            raise RuntimeError(message)
        if PLAN.get("refuse"):
            message = "the model does not load"
            raise RuntimeError(message)
        while PLAN.get("hang"):
            time.sleep(60)
        (self._model,) = options.model_alias
        self._asked = 0
        self._turn = threading.Lock()
        server = ThreadingHTTPServer((*options.hostnames, options.port), self._handler())
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.listening_address = f"http://127.0.0.1:{server.server_port}"

    def reply(self, request):
        """The answer to a chat completion; it repeats the question."""
        with self._turn:  # one slot
            self._asked += 1
            if self._asked == PLAN.get("crash_at"):
                sys.stderr.write("GGML_ASSERT(everything) failed\n")
                sys.stderr.flush()
                os.kill(os.getpid(), signal.SIGSEGV)
                time.sleep(60)
            while Path(PLAN.get("hold", "")).is_file():
                time.sleep(0.01)
        text = '{"tone": "kind"}' if "response_format" in request else "an answer"
        message = {"role": "assistant", "content": text}
        return {
            "id": "c",
            "model": self._model,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
        }

    def _handler(self):
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                listed = self.path == "/v1/models"
                self._put(200 if listed else 404, {"data": [{"id": server._model}]})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self._put(200, server.reply(body))

            def _put(self, status, value):
                data = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        return Handler
