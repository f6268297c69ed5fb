"""Listening: the application on a socket, with bounds on what a connection may do."""

from __future__ import annotations

import logging
import ssl
from types import TracebackType

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

# A client that keeps its connection open between requests saves a handshake; one that is
# silent for longer has forgotten it.
KEEPALIVE_S = 75.0
# How long requests that are being answered may take when the node stops.
SHUTDOWN_S = 5.0
LINE_BYTES_MAX = 8_190
BACKLOG = 1_024

logger = logging.getLogger("cronclave.http")


class Server:
    """A listening server; `stop` may be called more than once."""

    def __init__(self, runner: web.AppRunner, host: str, port: int) -> None:
        self._runner = runner
        self.host = host
        self.port = port

    async def stop(self) -> None:
        """Stop listening, let requests come to their end, and close all connections."""
        await self._runner.cleanup()

    async def __aenter__(self) -> Server:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()


class _NoNoise(logging.Filter):
    """Drops what others do wrong: a port scan must not fill the log."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, HttpProcessingError | ConnectionError)


async def start_server(
    application: web.Application,
    host: str,
    port: int,
    *,
    ssl_context: ssl.SSLContext | None = None,
) -> Server:
    """Serve an application; with port 0 the system chooses one, see `Server.port`.

    Raises:
        OSError: the address is not free or not ours.
    """
    if not any(isinstance(known, _NoNoise) for known in logger.filters):
        logger.addFilter(_NoNoise())
    runner = web.AppRunner(
        application,
        access_log=None,
        logger=logger,
        keepalive_timeout=KEEPALIVE_S,
        shutdown_timeout=SHUTDOWN_S,
        max_line_size=LINE_BYTES_MAX,
        max_field_size=LINE_BYTES_MAX,
    )
    await runner.setup()
    site = web.TCPSite(runner, host, port, ssl_context=ssl_context, backlog=BACKLOG)
    try:
        await site.start()
    except BaseException:
        await runner.cleanup()
        raise
    bound: int = runner.addresses[0][1]
    return Server(runner, host, bound)
