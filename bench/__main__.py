"""`python -m bench [NAME …]`: run the benchmarks and print one table."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable

from bench import capture, delivery, floor, gateway, hosting, idle, ingest, middleware, storage, transforms
from bench.table import Row, markdown, quantile

BENCHMARKS: dict[str, Callable[[], list[Row]]] = {
    "capture": capture.latency,
    "killed": capture.killed,
    "middleware": middleware.per_request,
    "bulk": ingest.bulk,
    "sustained": ingest.sustained,
    "single": ingest.single,
    "growth": storage.growth,
    "sizes": storage.sizes,
    "webhook": delivery.latency,
    "destinations": delivery.together,
    "isolation": delivery.isolation,
    "outage": delivery.outage,
    "idle": idle.idle,
    "transforms": transforms.transforms,
    "gateway": gateway.added,
    "turns": hosting.turns,
    "create": hosting.created,
    "live": hosting.live,
    "sweep": hosting.sweep,
    "takeover": hosting.killed,
}


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are: {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    rows: list[Row] = []
    for name in names or BENCHMARKS:
        print(f"running {name} …", file=sys.stderr, flush=True)
        rows += BENCHMARKS[name]()
    syncs = floor.fdatasync_ms()
    print(markdown(rows))
    print()
    print(
        f"Medians of one run on {os.cpu_count()} cores, Python {platform.python_version()}; "
        f"F, one fdatasync: p50 {quantile(syncs, 0.5):.2f} ms, p99 {quantile(syncs, 0.99):.2f} ms."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
