"""A worker process for the chaos run: works on jobs until it is killed, and writes down what was acknowledged."""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path

from dbp.jobs.v1 import jobs_pb2

from svc_common.ids import process_name
from tests.jobs_svc.client import ACCEPTED, Client, note

KINDS = ["root", "child"]


async def work(port: int, acknowledged: Path) -> None:
    client = Client(port, patience=60)
    name = process_name("chaos")
    with acknowledged.open("a", buffering=1) as file:
        while True:
            for lease in await client.claim(name, kinds=KINDS, jobs=4, wait=2):
                await asyncio.sleep(random.random() * 0.03)
                await client.report(lease, name, events=[note(name.encode())], report_number=1)
                result = f"{name} {lease.fencing_token}"
                success = jobs_pb2.Success(result=result.encode())
                if await client.report(lease, name, success=success, report_number=2) == ACCEPTED:
                    file.write(f"{lease.job.id}\t{result}\n")


if __name__ == "__main__":
    asyncio.run(work(int(sys.argv[1]), Path(sys.argv[2])))
