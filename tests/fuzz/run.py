"""Run every fuzz target for its share of the time, or make the corpus anew. What `make fuzz` calls.

Inputs that reach new code are kept in the working folder, and the next run goes on from them. An input that
crashes a target is kept in its `crashes`; the command that replays it is printed, and the run has failed.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

# Shares of the time: more for what has more states.
SHARES = {
    "channel": 10,
    "tcp": 4,
    "wire": 1,
    "handshake": 1,
    "ballot": 1,
    "store-server": 5,
    "store-frames": 1,
    "store-greetings": 1,
    "store-cards": 2,
}
# A hang is a finding too, and so is memory without bounds.
LIMITS = ("-timeout=20", "-rss_limit_mb=2048", "-max_len=4096")
SHOWN = 40  # lines of what a target has said, when it has failed


def main() -> int:
    """Return 0 where nothing was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path, help="folder for what is found")
    parser.add_argument("--fuzzers", type=Path, help="folder of the programs that `ninja fuzzers` has made")
    parser.add_argument("--seeds", type=Path, help="make the corpus anew, with this program, and do no more")
    parser.add_argument("--seconds", type=float, default=3600.0, help="for all targets together")
    parser.add_argument("targets", nargs="*", help="some of them; all by default")
    chosen = parser.parse_intermixed_args()  # targets may follow the options
    commands = {}
    for target in chosen.targets or SHARES:
        command, reason = command_of(target, chosen.fuzzers)
        if command:
            commands[target] = command
        else:
            print(f"skipped: {target}, {reason}", flush=True)
    if chosen.seeds:
        return make_corpus(chosen.seeds, chosen.work, commands)
    total = sum(SHARES[target] for target in commands)
    clean = [
        fuzz(target, command, chosen.work, max(1, round(chosen.seconds * SHARES[target] / total)))
        for target, command in commands.items()
    ]
    return 0 if all(clean) else 1


def command_of(target: str, fuzzers: Path | None) -> tuple[list[str], str]:
    """Return how a target is started, or nothing and why it cannot be."""
    if target.startswith("store-"):
        if importlib.util.find_spec("atheris") is None:
            return [], "for there is no atheris here (pip install --group fuzz)"
        return [sys.executable, "-m", "tests.fuzz.fuzz_store", target], ""
    if fuzzers is None or not (fuzzers / f"fuzz_{target}").exists():
        return [], "for there is no clang with libFuzzer here (apt-get install clang libclang-rt-dev)"
    return [str(fuzzers / f"fuzz_{target}")], ""


def inputs_of(target: str) -> list[str]:
    """Return the folders of inputs in the tree."""
    return [str(folder) for kind in ("corpus", "regressions") if (folder := HERE / kind / target).is_dir()]


def fuzz(target: str, command: Sequence[str], work: Path, seconds: int) -> bool:
    """Run one target; say whether it found nothing."""
    found, crashes = work / "found" / target, work / "crashes"
    found.mkdir(parents=True, exist_ok=True)
    crashes.mkdir(parents=True, exist_ok=True)
    prefix = f"{crashes / target}-"
    options = [*LIMITS, f"-max_total_time={seconds}", f"-artifact_prefix={prefix}", "-print_final_stats=1"]
    log = work / f"{target}.log"
    began = time.time()
    with log.open("wb") as output:
        ended = subprocess.run(
            [*command, str(found), *inputs_of(target), *options],
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    text = log.read_text(errors="replace")
    runs = sum(map(int, re.findall(r"^Done (\d+) runs", text, re.MULTILINE)))
    reached = re.findall(r"\bcov: (\d+)", text)
    kept = len(list(found.iterdir()))
    new = [path for path in crashes.glob(f"{target}-*") if path.stat().st_mtime >= began - 1]
    clean = ended.returncode == 0 and not new
    print(
        f"{target}: {'nothing found' if clean else 'FAILED'} in {time.time() - began:.0f} s,"
        f" {runs} inputs, {reached[-1] if reached else 'no'} places reached, {kept} inputs kept",
        flush=True,
    )
    if not clean:
        print("\n".join(text.splitlines()[-SHOWN:]))
        for path in new:
            print(f"replay it with: {shlex.join([*command, str(path)])}", flush=True)
    return clean


def make_corpus(seeds: Path, work: Path, commands: dict[str, list[str]]) -> int:
    """Put in the place of the corpus what the seeds need for all that they reach."""
    folder = work / "seeds"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    subprocess.run([seeds, folder], check=True)
    subprocess.run([sys.executable, "-m", "tests.fuzz.store_seeds", folder], cwd=ROOT, check=True)
    for target, command in commands.items():
        corpus = HERE / "corpus" / target
        shutil.rmtree(corpus, ignore_errors=True)
        if target.startswith("store-"):  # atheris cannot merge, and they are few
            shutil.copytree(folder / target, corpus)
            continue
        corpus.mkdir(parents=True)
        merge = [*command, "-merge=1", *LIMITS, str(corpus), str(folder / target)]
        subprocess.run(merge, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        print(f"{target}: {len(list(corpus.iterdir()))} of {len(list((folder / target).iterdir()))} seeds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
