"""Two ways to do the same work, in turns, so that both meet the same weather."""

from __future__ import annotations

import signal
import statistics
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from tests.support.service import RunningService


class Pair(NamedTuple):
    """What one run took through the bridge and without it, in seconds."""

    ours: float
    plain: float


def leave_nothing_behind() -> None:
    """On SIGTERM clean up as at any other end: a time limit must not leave servers behind."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def timed(act: Callable[[], object]) -> float:
    """How many seconds ``act`` takes."""
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def complete(service: RunningService, job: Mapping[str, object], buckets: Sequence[str]) -> None:
    """Submit ``job`` with each of these buckets in one request; wait until all are completed."""
    name = uuid.uuid4().hex
    jobs = [{**job, "bucket_id": bucket, "set": name} for bucket in buckets]
    answer = service.post("/v1/jobs", jobs)
    assert [item["status"] for item in answer.body] == [201] * len(jobs), answer
    while (states := _states(service, name)) != {"completed": len(jobs)}:
        assert not {"failed", "canceled"} & states.keys(), states
        # Asking takes time of the machine, too.
        time.sleep(0.02 if len(jobs) == 1 else 0.5)


def _states(service: RunningService, name: str) -> dict[str, int]:
    found = service.get(f"/v1/sets/{name}").body["jobs"]
    return {state: count for state, count in found.items() if count}


def in_turns(
    what: str, runs: int, ours: Callable[[], float], plain: Callable[[], float]
) -> list[Pair]:
    """Both ways ``runs`` times; who goes first changes from run to run."""
    pairs = []
    for run in range(runs):
        if run % 2:
            one = plain()
            pair = Pair(ours(), one)
        else:
            pair = Pair(ours(), plain())
        pairs.append(pair)
        print(f"{what}  bridge {pair.ours:.2f} s  without {pair.plain:.2f} s", flush=True)
    return pairs


def judge_ratio(what: str, pairs: Sequence[Pair], most: float) -> bool:
    """Whether the median of the ratios is at most ``most``; prints it and the medians."""
    ratio = statistics.median(pair.ours / pair.plain for pair in pairs)
    return _judge(what, pairs, f"{ratio:.2f} times", f"{most:.2f}", ratio <= most)


def judge_excess(what: str, pairs: Sequence[Pair], most_s: float) -> bool:
    """Whether the median of the differences is at most ``most_s`` seconds; prints it."""
    excess = statistics.median(pair.ours - pair.plain for pair in pairs)
    return _judge(what, pairs, f"{excess:+.2f} s", f"{most_s:+.2f} s", excess <= most_s)


def _judge(what: str, pairs: Sequence[Pair], found: str, most: str, fine: bool) -> bool:
    ours, plain = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(
        f"{what}  {found} (at most {most})  bridge {ours:.2f} s  without {plain:.2f} s"
        f"  {'ok' if fine else 'TOO SLOW'}  (medians of {len(pairs)})",
        flush=True,
    )
    return fine
