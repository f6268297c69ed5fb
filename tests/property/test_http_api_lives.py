"""Jobs live through any order of requests, launches and ends, and the state stays sound."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from api.jobs.planning import decide
from consensus.state.commands import Claim
from storage import keys, models
from storage.models import Skip
from tests.support.api_client import Answer, ApiClient, api_client
from tests.support.checks import check_state, rows
from tests.support.single import INCARNATION, SingleCluster

SCHEDULES: list[dict[str, Any]] = [
    {"every": "10s"},
    {"every": "7s", "max_runs": 3},
    {"every": "20s", "jitter": "5s", "not_after": "2025-11-24T16:05:00Z"},
    {"cron": "* * * * *"},
    {"delay": "5s"},
    {"delay": "5s", "max_runs": 2},
    {"at": "2025-11-24T16:00:30Z"},
    {"manual": True},
]
MEMBERS: dict[str, list[Any]] = {
    "overlap": ["skip", "allow", "buffer_one", "cancel_other"],
    "catch_up": [{"policy": name, "window": "1m"} for name in ("skip", "last", "first", "all")],
    "retry": [{"max_attempts": 2, "backoff": "1s"}],
    "delivery": ["at_most_once"],
    "priority": [10, 90],
}
DOCUMENTS = st.fixed_dictionaries(
    {"schedule": st.sampled_from(SCHEDULES), "action": st.just({"type": "noop"})},
    optional={name: st.sampled_from(values) for name, values in MEMBERS.items()},
)
STEPS = st.one_of(
    st.tuples(st.just("put"), DOCUMENTS),
    st.tuples(st.just("put"), DOCUMENTS),
    st.tuples(st.sampled_from(["pause", "resume", "run", "run", "delete", "cancel"]), st.none()),
    st.tuples(st.just("advance"), st.sampled_from([1, 4_000, 11_000, 70_000, 400_000])),
    st.tuples(st.just("claim"), st.none()),
    st.tuples(st.just("claim"), st.none()),
    st.tuples(st.just("end"), st.sampled_from(["succeeded", "failed", "cancelled"])),
)
PATH = "/v1/jobs/default/a"


class Life:
    """One cluster, one name, and what happens to it."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client
        self._cluster: SingleCluster = client.cluster
        self._cluster.heartbeat()

    async def step(self, what: str, detail: Any) -> None:
        self._cluster.environment.now_ms += 1
        if what == "advance":
            self._cluster.advance(detail)
        elif what == "claim":
            self._claim()
        elif what == "end":
            self._end(detail)
        else:
            assert (await self._request(what, detail)).status < 500
        check_state(self._cluster.view, dict(self._cluster.machine.counters))
        self._check_outcomes()
        await self._check_shown()

    async def _request(self, what: str, document: Any) -> Answer:
        if what == "put":
            return await self._client.send("PUT", PATH, document)
        if what == "delete":
            return await self._client.send("DELETE", PATH)
        if what != "cancel":
            return await self._client.send("POST", f"{PATH}/{what}")
        runs = (await self._client.get("/v1/runs?state=queued&state=waiting&state=claimed")).json
        name = runs["items"][0]["id"] if runs["items"] else "none"
        return await self._client.send("POST", f"/v1/runs/{name}/cancel")

    def _claim(self) -> None:
        """Decide every due cursor, and take over every queued run."""
        cluster = self._cluster
        now_ms = cluster.environment.now_ms
        for key in rows(cluster.view, keys.DUE):
            _, _, start_ms, _, subject = keys.split_due(keys.DUE + key)
            if start_ms > now_ms:
                continue
            if len(subject) > keys.JOB_ID_BYTES:
                cluster.claim_run(subject)
                continue
            raw = cluster.view.get(keys.JOB + subject)
            assert raw is not None
            definition = models.decode_definition(raw)
            claim = decide(definition, subject, cluster.state(subject), now_ms)
            assert claim is not None
            (result,) = cluster.apply(Claim(INCARNATION, (claim,)))
            # What the planner works out from the present state is never refused.
            assert result.refusals == (None,), (claim, cluster.state(subject))  # type: ignore[union-attr]

    def _end(self, outcome: Any) -> None:
        held = rows(self._cluster.view, keys.LIVE)
        for key in held:
            now_ms = self._cluster.environment.now_ms
            retry_ms = now_ms + 1_000 if outcome == "failed" else None
            self._cluster.end(key[len(INCARNATION) :], outcome, retry_start_ms=retry_ms)

    def _check_outcomes(self) -> None:
        """No occurrence has two outcomes, and none lies behind the cursor without one."""
        view = self._cluster.view
        until: dict[bytes, int] = {}
        for key, raw in rows(view, keys.OUTCOME).items():
            job, scheduled_ms, trigger, _ = keys.split_run(key)
            if trigger == keys.TRIGGER_MANUAL:
                continue
            record = models.decode_outcome(raw)
            assert scheduled_ms > until.get(job, -1)
            until[job] = record.last_ms if isinstance(record, Skip) else scheduled_ms
        for job, last_ms in until.items():
            assert self._cluster.state(job).decided_ms == last_ms

    async def _check_shown(self) -> None:
        """Every job can be read, and a status says whether there is a next occurrence."""
        for shown in (await self._client.get("/v1/jobs")).json["items"]:
            if shown["status"] != "scheduled":
                assert shown["next_run_at"] is None
            elif shown["next_run_at"] is None:
                assert {"delay", "manual"} & shown["schedule"].keys()
            coming = await self._client.get(f"/v1/jobs/{shown['id']}/next")
            assert coming.status == 200
            if shown["status"] == "finished":
                assert coming.json["items"] == []
        for path in ("/v1/runs", f"{PATH}/runs"):
            assert (await self._client.get(path)).status in (200, 404)


@settings(max_examples=60)
@given(st.lists(STEPS, max_size=25))
def test_any_life_of_a_job_keeps_the_state_sound(steps: list[tuple[str, Any]]) -> None:
    """G5: after every step each occurrence has at most one outcome, and all tables agree."""

    async def live() -> None:
        async with api_client() as client:
            life = Life(client)
            for what, detail in steps:
                await life.step(what, detail)

    asyncio.run(live())
