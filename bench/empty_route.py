"""A service with one route that does nothing, on the same server as the real one.

Prints HOST:PORT, then serves until it is ended.
"""

from __future__ import annotations

import signal

from flask import Flask, Response

from bridge.server import HttpServer
from bridge.settings import Limits, Server


def main() -> None:
    """Serve ``POST /``."""
    app = Flask("empty")
    app.config["MAX_CONTENT_LENGTH"] = Limits().body_bytes

    @app.post("/")
    def nothing() -> Response:
        return Response(status=204)

    server = HttpServer(app, "127.0.0.1:0", Server().threads)
    server.start()
    print(server.address, flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    server.close()


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    main()
