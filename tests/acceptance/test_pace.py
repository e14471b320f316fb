"""Nothing waits for an interval to pass when something happens before."""

from __future__ import annotations

from pathlib import Path

from tests.support.buckets import archive, hand_in
from tests.support.service import RunningService


def test_an_end_is_seen_and_its_room_used_at_once(tmp_path: Path) -> None:
    service = RunningService(tmp_path / "home")
    service.init("--runtime", "process")
    service.configure(
        local={"cores": 1}, queue={"feed_interval_s": 600, "reconcile_interval_s": 600}
    )
    try:
        service.start()
        for job in hand_in(service, *[archive([]) for _ in range(3)]):
            assert service.wait_for(job, ["completed", "failed"])["state"] == "completed"
    finally:
        service.close()
