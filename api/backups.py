"""The state of a cluster as a stream, from whichever node is asked."""

from __future__ import annotations

import asyncio
import logging

from aiohttp import web

from api.calls import PROPOSAL_S, REQUEST_ID, Call, common_headers
from api.cluster import BackupStream, Cluster
from consensus.errors import ConsensusError

BACKUP_TYPE = "application/vnd.cronclave.snapshot"
# A client that takes nothing for so long has gone; and the pages of an old state must not
# be kept for longer than it takes to send the largest one through a slow line.
CHUNK_S_MAX = 30.0
BACKUP_S_MAX = 3_600.0

logger = logging.getLogger("cronclave.api")


async def read_backup(call: Call) -> web.StreamResponse:
    """GET /v1/cluster/backup: a snapshot in the form of `storage.snapshot_format`.

    With a quorum it has everything that was acknowledged before the request; without one it
    has what this member knows, and is marked as stale.

    Its last chunk says whether it is whole. What goes wrong after the first byte closes the
    connection, so that nothing which is cut off looks like an end.
    """
    cluster = call.cluster
    fresh = await _caught_up(cluster)
    backup = await cluster.open_backup()
    try:
        headers = common_headers(cluster, call.request[REQUEST_ID])
        own = {"Content-Type": BACKUP_TYPE, "X-Cronclave-Index": str(backup.index)}
        if not fresh:
            own["X-Cronclave-Stale"] = "true"
        response = web.StreamResponse(headers=headers | own)
        await response.prepare(call.request)
        await _send(call.request, response, backup)
        return response
    finally:
        backup.close()


async def _caught_up(cluster: Cluster) -> bool:
    if not cluster.has_quorum:
        return False
    try:
        await cluster.barrier(timeout_s=PROPOSAL_S)
    except ConsensusError:
        return False
    return True


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
