"""Give a target of the rendezvous to atheris.

``python -m tests.fuzz.fuzz_store TARGET``, with libFuzzer's own options; ``-help=1`` lists them.
"""

from __future__ import annotations

import json
import random
import sys
from typing import Any

import atheris

# Only what is imported here is watched for new code.
with atheris.instrument_imports(include=["commops"]):
    from .store import TARGETS

_VALUES = [None, True, 0, -1, 2**63, 1e999, "", "0", "\ud800", "0" * 32, [], {}, [[]], {"rank": 0}]


def _places(content: Any) -> list[tuple[Any, Any]]:
    """Return every container within `content`, with each of its keys or positions."""
    keys = content if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    return [(content, key) for key in keys] + [place for key in keys for place in _places(content[key])]


def mutate_card(data: bytes, most: int, seed: int) -> bytes:
    """Change a value within JSON, or leave it out: bytes that are changed at random rarely stay JSON."""
    chance = random.Random(seed)
    try:
        content = json.loads(data[1:])
    except (ValueError, RecursionError):
        content = None
    places = _places(content)
    if not places or chance.random() < 0.3:
        return bytes(atheris.Mutate(data, most))
    container, key = chance.choice(places)
    if chance.random() < 0.2:
        del container[key]
    else:
        container[key] = chance.choice([*_VALUES, chance.choice(places)[1]])
    changed = data[:1] + json.dumps(content).encode()
    return changed if len(changed) <= most else data


def main() -> None:
    name = sys.argv.pop(1)
    mutators = {"custom_mutator": mutate_card} if name == "store-cards" else {}
    atheris.Setup(sys.argv, TARGETS[name], **mutators)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
