"""Bulk intake without end: arrays of 1,000 jobs, one after another.

``pour.py HOST:PORT < SECRET``. Prints a line when the first array was taken in; ended
by SIGTERM it prints how many jobs there were in a second.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import sys
import time
from collections.abc import Iterator

ARRAY = 1000
JOB: dict[str, object] = {"image": "psi4:1.5", "set": "poured"}
_PARTS = ((0, 8), (8, 12), (13, 16), (17, 20), (20, 32))


class Door:
    """One connection to the bulk route. It leaves the machine to the service: nothing is
    encoded or decoded that need not be.
    """

    def __init__(self, address: str, secret: str, job: dict[str, object]) -> None:
        host, port = address.split(":")
        self._http = http.client.HTTPConnection(host, int(port), timeout=60)
        self._headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"}
        self._item = json.dumps(job | {"bucket_id": "%s"})

    def post(self) -> None:
        """Hand in 1,000 jobs, each with a bucket of its own; every one must be taken."""
        body = f"[{','.join(self._item % bucket for bucket in buckets(ARRAY))}]"
        self._http.request("POST", "/v1/jobs", body, self._headers)
        answer = self._http.getresponse()
        text = answer.read()
        assert answer.status == 200, text
        assert text.count(b'"status":201') == ARRAY, text


def buckets(count: int) -> Iterator[str]:
    """New ids, as uuid4 writes them."""
    digits = os.urandom(16 * count).hex()
    for start in range(0, 32 * count, 32):
        a, b, c, d, e = (digits[start + at : start + to] for at, to in _PARTS)
        yield f"{a}-{b}-4{c}-a{d}-{e}"


def main() -> None:
    """Pour until the end."""
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    door = Door(sys.argv[1], sys.stdin.readline().strip(), JOB)
    door.post()
    print("pouring", flush=True)
    count, start = 0, time.perf_counter()
    while not ended:
        door.post()
        count += ARRAY
    print(count / (time.perf_counter() - start), flush=True)


if __name__ == "__main__":
    main()
