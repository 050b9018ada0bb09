"""A process of its own, since the file of authorities is read when a process begins: POST over TLS to a name that is at
127.0.0.1, and write the status, or why there is none."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

from adjourn.destinations.outbound import Outbound
from adjourn.errors import DestinationOutage


async def main(host: str, port: str) -> str:
    async def resolve(_: str, __: int) -> Sequence[str]:
        return ["127.0.0.1"]

    client = Outbound(
        name="out", url=f"https://{host}:{port}/in", headers={}, allow_networks=["127.0.0.1"], resolve=resolve
    )
    try:
        return str((await client.post(b"{}", {})).status)
    except DestinationOutage as outage:
        return outage.message
    finally:
        await client.close()


if __name__ == "__main__":
    sys.stdout.write(asyncio.run(main(*sys.argv[1:])))
