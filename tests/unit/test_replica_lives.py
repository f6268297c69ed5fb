"""What the log may forget of a state whose process ends and begins again."""

from __future__ import annotations

from consensus.raft.types import Entry
from node.replica import Listeners, Replica
from storage import keys, models
from storage.memory_store import FlushedMemoryStore, MemoryStateDisk
from tests.simulation.virtual_loop import VirtualEnvironment, VirtualExecutor, VirtualLoop

WAIT_S = 60.0


def applied_on(disk: MemoryStateDisk) -> int:
    raw = disk.rows.get(keys.META)
    return 0 if raw is None else models.decode_meta(raw).applied_index


def test_the_log_forgets_nothing_that_a_power_cut_may_take_from_the_state() -> None:
    """The last transaction of the state may be lost with the power (storage/DESIGN.md).

    What it had applied has to be in the journal then, or the member could not start again.
    """
    disk = MemoryStateDisk()
    forgotten: list[int] = []
    loop = VirtualLoop()

    async def flush_some(replica: Replica, indexes: range) -> None:
        for index in indexes:
            replica.apply([Entry(index=index, term=1, command=b"")])
            assert await replica.wait_flushed(index, timeout_s=WAIT_S)
        await replica.stop()

    def live(indexes: range) -> None:
        environment = VirtualEnvironment(loop, 1)
        listeners = Listeners(lambda results: None, flushed=forgotten.append)
        writer = VirtualExecutor(loop, lambda: 0.01)
        store = FlushedMemoryStore(disk)
        replica = Replica(store, environment, listeners, lambda error: None, writer)
        loop.run_until_complete(flush_some(replica, indexes))

    live(range(1, 5))
    # What a life ends with may still be lost when the next one begins.
    live(range(5, 6))
    disk.lose_last()
    assert applied_on(disk) == 4
    assert max(forgotten) <= 4
    live(range(5, 9))
    # What is certain is let go, if not at once.
    assert max(forgotten) == 7
    loop.close()
