"""`python -m bench [NAME]`: run one benchmark or all, one JSON object a line on stdout, progress on stderr."""

import importlib
import sys
import time

BENCHES = (
    "cli",
    "backfill",
    "day0",
    "fetch",
    "preflight",
    "watcher",
    "route_flips",
    "gateway_overhead",
    "verdict_oc",
    "runner",
    "score_queries",
    "score_writers",
    "engines",
    "endpoints",
    "cluster",
    "quantize",
    "ui_pages",
    "gpu",
)


def main() -> int:
    wanted = sys.argv[1:] or list(BENCHES)
    unknown = [name for name in wanted if name not in BENCHES]
    if unknown:
        print(f"bench: there is no benchmark {unknown[0]!r}; there are: {', '.join(BENCHES)}.", file=sys.stderr)
        return 2
    for name in wanted:
        begun = time.monotonic()
        print(f"bench {name}: running", file=sys.stderr)
        for figure in importlib.import_module(f"bench.{name}").run():
            print(figure.line(), flush=True)
        print(f"bench {name}: {time.monotonic() - begun:.0f} s", file=sys.stderr)
    return 0


sys.exit(main())
