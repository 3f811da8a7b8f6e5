"""A worker process for the chaos run: works on jobs until it is killed, and writes down what was acknowledged."""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path

from dbp.jobs.v1 import jobs_pb2

from svc_common.ids import new_id, process_name
from tests.jobs_svc.client import ACCEPTED, Client, note, text

KINDS = ["root", "child"]
PIECES = 3


async def work(port: int, acknowledged: Path) -> None:
    client = Client(port, patience=60)
    name = process_name("chaos")
    with acknowledged.open("a", buffering=1) as file:
        while True:
            for lease in await client.claim(name, kinds=KINDS, jobs=4, wait=2, claim_id=new_id()):
                result = f"{name} {lease.fencing_token}"
                await client.report(lease, name, events=[note(name.encode())], report_number=1)
                for number in range(PIECES):  # of text, for compaction to merge
                    await asyncio.sleep(random.random() * 0.01)
                    await client.report(lease, name, events=[text(f"{result} {number} ")], report_number=2 + number)
                success = jobs_pb2.Success(result=result.encode())
                if await client.report(lease, name, success=success, report_number=2 + PIECES) == ACCEPTED:
                    file.write(f"{lease.job.id}\t{result}\n")


if __name__ == "__main__":
    asyncio.run(work(int(sys.argv[1]), Path(sys.argv[2])))
