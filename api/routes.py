"""The route table: the one source of the router, the roles, and the OpenAPI document.

A job is found by its id or by its namespace and name, so most routes of a job come twice.
The two are told apart by their form: a namespace cannot look like an id.
"""

from __future__ import annotations

import dataclasses

from api import backups, operations, parameters, run_requests, seats
from api.backups import BACKUP_TYPE
from api.calls import JSON, MERGE_PATCH, NDJSON
from api.jobs import actions, batch, reads, writes
from api.operations import EXPLAINED_MAX, METRICS_TYPE
from api.outcomes import RUN_OUTCOMES, RUN_STATES, SKIP_REASONS
from api.parameters import choice, plain, whole
from api.route import Route
from storage.limits import NAME_CHARS_MAX

PAGE = (parameters.LIMIT, parameters.CURSOR)
SPAN = (parameters.SINCE, parameters.UNTIL)
OUTCOME = choice(
    "outcome",
    (*RUN_OUTCOMES, *SKIP_REASONS, "skipped"),
    "Only with one of these outcomes; `skipped` is any reason for not being launched.",
    repeatable=True,
)
RUN_OUTCOME = choice("outcome", RUN_OUTCOMES, "Only with one of these outcomes.", repeatable=True)
RUN_STATE = choice("state", RUN_STATES, "Only in one of these states.", repeatable=True)
JOB_STATUS = choice(
    "status", ("scheduled", "paused", "finished"), "Only with one of these.", repeatable=True
)
NODE = plain("node", NAME_CHARS_MAX, "Only of the member with this name.")
TEXT = plain("q", NAME_CHARS_MAX, "Only with this text in the name or the description.")
COUNT = whole("count", 1, EXPLAINED_MAX, "How many occurrences to show.", 5)
ATTEMPT = whole("attempt", 1, 65_535, "Which attempt; by default the last with an output.")

_JOBS = (
    Route(
        method="POST", path="/v1/jobs", handler=writes.create_job, role="write",
        summary="Create a job", request="Job", answers={201: "CreatedJob", 200: "Preview"},
        codes=("name_taken",), parameters=(parameters.DRY_RUN,),
    ),
    Route(
        method="GET", path="/v1/jobs", handler=reads.list_jobs, role="read",
        summary="List jobs, in the order of namespaces and names", answers={200: "JobPage"},
        parameters=(parameters.NAMESPACE, JOB_STATUS, parameters.LABEL, TEXT, *PAGE),
    ),
    Route(
        method="POST", path="/v1/jobs:batch", handler=batch.create_jobs, role="write",
        summary="Create up to 10,000 jobs, with an answer for each", request="JobBatch",
        answers={200: "BatchResult"}, media_types=(JSON, NDJSON),
    ),
    Route(
        method="POST", path="/v1/jobs:validate", handler=writes.validate_job, role="read",
        summary="Check a job and say what putting it would change", request="Job",
        answers={200: "Preview"},
    ),
)  # fmt: skip

_JOB = (
    Route(
        method="GET", path="/v1/jobs/{job}", handler=reads.get_job, role="read",
        summary="Read a job", answers={200: "ShownJob"}, codes=("not_found",),
    ),
    Route(
        method="PUT", path="/v1/jobs/{job}", handler=writes.put_job, role="write",
        summary="Replace a job", request="Job",
        answers={200: "ChangedJob"},
        codes=("not_found", "changed_meanwhile", "occurrence_decided"),
        parameters=(parameters.DRY_RUN,), conditional=True,
    ),
    Route(
        method="PATCH", path="/v1/jobs/{job}", handler=writes.patch_job, role="write",
        summary="Change a job by a merge patch (RFC 7396)", request="JobPatch",
        answers={200: "ChangedJob"},
        codes=("not_found", "changed_meanwhile", "occurrence_decided"),
        parameters=(parameters.DRY_RUN,), media_types=(MERGE_PATCH, JSON), conditional=True,
    ),
    Route(
        method="DELETE", path="/v1/jobs/{job}", handler=writes.delete_job, role="write",
        summary="Delete a job; its history stays", answers={204: None},
        codes=("not_found", "changed_meanwhile"), conditional=True,
    ),
    Route(
        method="POST", path="/v1/jobs/{job}/pause", handler=actions.pause_job, role="operate",
        summary="Pause a job", request="Nothing", request_optional=True,
        answers={200: "PausedJob"}, codes=("not_found",),
    ),
    Route(
        method="POST", path="/v1/jobs/{job}/resume", handler=actions.resume_job,
        role="operate", summary="Resume a job", request="Nothing", request_optional=True,
        answers={200: "PausedJob"}, codes=("not_found",),
    ),
    Route(
        method="POST", path="/v1/jobs/{job}/run", handler=actions.run_job, role="operate",
        summary="Run a job now, beside its schedule", request="Nothing", request_optional=True,
        answers={201: "StartedRun"}, codes=("not_found", "already_running"),
    ),
    Route(
        method="GET", path="/v1/jobs/{job}/next", handler=reads.next_occurrences,
        role="read", summary="Show a job's next occurrences", answers={200: "NextOccurrences"},
        codes=("not_found",), parameters=(COUNT,),
    ),
    Route(
        method="GET", path="/v1/jobs/{job}/runs", handler=reads.job_history, role="read",
        summary="Show what became of a job's occurrences, the latest first",
        answers={200: "OutcomePage"}, codes=("not_found",), parameters=(OUTCOME, *SPAN, *PAGE),
    ),
)  # fmt: skip

_RUNS = (
    Route(
        method="GET", path="/v1/runs", handler=run_requests.list_runs, role="read",
        summary="List the runs of all jobs, the latest first", answers={200: "RunPage"},
        parameters=(parameters.NAMESPACE, RUN_OUTCOME, RUN_STATE, NODE, *SPAN, *PAGE),
    ),
    Route(
        method="GET", path="/v1/runs/{run}", handler=run_requests.get_run, role="read",
        summary="Read a run with its attempts", answers={200: "FullRun"}, codes=("not_found",),
    ),
    Route(
        method="GET", path="/v1/runs/{run}/output", handler=run_requests.run_output, role="read",
        summary="Read what an attempt printed", answers={200: None},
        codes=("not_found", "output_expired"), parameters=(ATTEMPT,), answer_type="text/plain",
    ),
    Route(
        method="POST", path="/v1/runs/{run}/cancel", handler=run_requests.cancel_run,
        role="operate", summary="Cancel a run", request="Cancellation", request_optional=True,
        answers={200: "CancelledRun", 202: "CancelledRun"}, codes=("not_found", "already_ended"),
    ),
)  # fmt: skip

_OPERATIONS = (
    Route(
        method="POST", path="/v1/schedule:explain", handler=operations.explain_schedule,
        role="read", summary="Say in words when a schedule occurs", request="ExplainedSchedule",
        answers={200: "Explanation"},
    ),
    Route(
        method="GET", path="/v1/cluster", handler=operations.cluster_status, role="read",
        summary="Show how this member sees the cluster", answers={200: "ClusterStatus"},
    ),
    Route(
        method="GET", path="/v1/cluster/backup", handler=backups.read_backup, role="admin",
        summary="Read this member's state as a backup", answers={200: None},
        codes=("overloaded",), answer_type=BACKUP_TYPE,
    ),
    Route(
        method="GET", path="/v1/members", handler=operations.list_members, role="read",
        summary="List the members", answers={200: "MemberPage"}, parameters=PAGE,
    ),
    Route(
        method="GET", path="/v1/cluster/configuration", handler=seats.show_configuration,
        role="read", summary="Show who belongs to the cluster, and who is to",
        answers={200: "Configuration"},
    ),
    Route(
        method="POST", path="/v1/cluster/tokens", handler=seats.issue_token, role="admin",
        summary="Let a new member join once", request="NewToken", answers={201: "IssuedToken"},
        codes=("name_taken", "not_found", "token_invalid", "members_invalid"),
    ),
    Route(
        method="POST", path="/v1/members", handler=seats.join, role="admin",
        summary="Join with a token", request="NewMember", answers={202: "JoinedMember"},
        codes=("name_taken", "token_invalid", "members_invalid"),
    ),
    Route(
        method="PATCH", path="/v1/members/{member}", handler=seats.change_member, role="admin",
        summary="Give a member a vote, take it away, or say where it is reached",
        request="MemberChange", answers={202: "NamedMember"},
        codes=("not_found", "members_invalid"), media_types=(MERGE_PATCH, JSON),
    ),
    Route(
        method="DELETE", path="/v1/members/{member}", handler=seats.remove_member, role="admin",
        summary="Remove a member", answers={202: "NamedMember"},
        codes=("not_found", "members_invalid"),
    ),
    Route(
        method="POST", path="/v1/members/{member}/drain", handler=operations.drain_member,
        role="admin", request="Nothing", request_optional=True,
        summary="Let this member hand over what it has, and stop", answers={202: "Draining"},
        codes=("not_found", "other_member"),
    ),
    Route(
        method="GET", path="/healthz", handler=operations.health, role="public",
        summary="Tell whether the process lives", answers={200: "Status"},
    ),
    Route(
        method="HEAD", path="/healthz", handler=operations.health, role="public",
        summary="Tell whether the process lives", answers={200: None},
    ),
    Route(
        method="GET", path="/readyz", handler=operations.ready, role="public",
        summary="Tell whether this node can serve", answers={200: "Status"}, codes=("not_ready",),
    ),
    Route(
        method="HEAD", path="/readyz", handler=operations.ready, role="public",
        summary="Tell whether this node can serve", answers={200: None}, codes=("not_ready",),
    ),
    Route(
        method="GET", path="/metrics", handler=operations.metrics, role="read",
        summary="Show metrics in the Prometheus text format", answers={200: None},
        answer_type=METRICS_TYPE.partition(";")[0],
    ),
    Route(
        method="GET", path="/version", handler=operations.version, role="public",
        summary="Show versions", answers={200: "Version"},
    ),
    Route(
        method="GET", path="/openapi.json", handler=operations.document, role="public",
        summary="Show this document", answers={200: "Document"},
    ),
)  # fmt: skip


def _by_name(route: Route) -> Route:
    path = route.path.replace("{job}", "{namespace}/{name}")
    if route.handler is not writes.put_job:
        return dataclasses.replace(route, path=path)
    summary = "Create or replace a job"
    answers = {**route.answers, 201: "CreatedJob"}
    return dataclasses.replace(route, path=path, summary=summary, answers=answers)


ROUTES: tuple[Route, ...] = (
    *_JOBS,
    *_JOB,
    *(_by_name(route) for route in _JOB),
    *_RUNS,
    *_OPERATIONS,
)
