"""A route that does nothing, on waitress as it comes.

Prints HOST:PORT, then serves until it is ended.
"""

from __future__ import annotations

import logging
import signal
import threading

import waitress
from flask import Flask, Response

from bridge.settings import Limits, Server


def main() -> None:
    """Serve ``POST /``."""
    app = Flask("empty")
    app.config["MAX_CONTENT_LENGTH"] = Limits().body_bytes

    @app.post("/")
    def nothing() -> Response:
        return Response(status=204)

    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    server = waitress.create_server(app, host="127.0.0.1", port=0, threads=Server().threads)
    threading.Thread(target=server.run, daemon=True).start()
    print(f"127.0.0.1:{server.effective_port}", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    main()
