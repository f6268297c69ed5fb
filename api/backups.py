"""The state of a cluster as a stream, from whichever node is asked."""

from __future__ import annotations

import asyncio
import logging

from aiohttp import web

from api.calls import REQUEST_ID, Call, common_headers
from api.cluster import BackupStream

BACKUP_TYPE = "application/vnd.cronclave.snapshot"
# A client that takes nothing for so long has gone; and the pages of an old state must not
# be kept for longer than it takes to send the largest one through a slow line.
CHUNK_S_MAX = 30.0
BACKUP_S_MAX = 3_600.0

logger = logging.getLogger("cronclave.api")


async def read_backup(call: Call) -> web.StreamResponse:
    """GET /v1/cluster/backup: a snapshot in the form of `storage.snapshot_format`.

    Its last chunk says whether it is whole. What goes wrong after the first byte closes the
    connection, so that nothing which is cut off looks like an end.
    """
    cluster = call.cluster
    backup = await cluster.open_backup()
    try:
        headers = common_headers(cluster, call.request[REQUEST_ID])
        own = {"Content-Type": BACKUP_TYPE, "X-Cronclave-Index": str(backup.index)}
        response = web.StreamResponse(headers=headers | own)
        await response.prepare(call.request)
        await _send(call.request, response, backup)
        return response
    finally:
        backup.close()


async def _send(request: web.Request, response: web.StreamResponse, backup: BackupStream) -> None:
    try:
        async with asyncio.timeout(BACKUP_S_MAX):
            while (chunk := await backup.next_chunk()) is not None:
                async with asyncio.timeout(CHUNK_S_MAX):
                    await response.write(chunk)
            await response.write_eof()
    except ConnectionError:
        return  # Whoever asked has gone.
    except Exception:
        logger.exception("A backup was broken off.")
        if request.transport is not None:
            request.transport.abort()
