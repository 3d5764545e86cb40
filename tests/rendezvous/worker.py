"""One of several processes that use a store at once: ``python worker.py url prefix name rounds``."""

from __future__ import annotations

import json
import os
import sys

from commops.rendezvous import PrefixStore, open_store


def main(url: str, prefix: str, name: str, rounds: int) -> None:
    with open_store(url, is_server=False, token=os.environ.get("TEST_TOKEN"), timeout=60) as whole:
        store = PrefixStore(prefix, whole) if prefix else whole
        store.add("ready")
        store.get("go")
        counts = [store.add("n") for _ in range(rounds)]
        leader = store.compare_and_set("leader", None, name.encode())
        made = 0
        while made < rounds:
            seen = store.get("steps")
            new = b"%d by %s" % (int(seen.split()[0]) + 1, name.encode())
            made += store.compare_and_set("steps", seen, new) == new
        store.set(f"done/{name}", b"")
    print(json.dumps({"counts": counts, "leader": leader.decode()}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
