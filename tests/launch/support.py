"""Programs for the tests to launch, and a look at what is left of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

MARK = "COMMOPS_TEST_MARK"

RUN = (
    "import sys; from commops.launch.run import run; sys.exit(run({n}, sys.argv[1], sys.argv[2:], {options}))"
)


def _heed_signals() -> None:
    """Undo what nohup, or a shell that runs the tests in the background, has told their process to ignore."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


class Programs:
    """Starts programs that carry a mark in their environment, by which whatever they leave can be found."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._mark = f"{os.getpid()}-{time.monotonic_ns()}"
        self._started: list[subprocess.Popen[bytes]] = []

    def script(self, source: str, name: str = "script.py") -> Path:
        path = self.folder / name
        path.write_text(source)
        return path

    def start(
        self, *command: str | Path, env: dict[str, str] | None = None, **options: object
    ) -> subprocess.Popen[bytes]:
        environ = {name: value for name, value in os.environ.items() if name not in _RANK_VARIABLES}
        environ |= {MARK: self._mark, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))} | (env or {})
        pipes: dict[str, object] = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "preexec_fn": _heed_signals,
        }
        process = subprocess.Popen(command, cwd=self.folder, env=environ, **pipes | options)  # type: ignore[call-overload]
        self._started.append(process)
        return process  # type: ignore[no-any-return]

    def launcher(
        self,
        n: int,
        program: str | Path,
        *arguments: str,
        flags: tuple[str, ...] = (),
        env: dict[str, str] | None = None,
        popen: dict[str, object] | None = None,
        **options: object,
    ) -> subprocess.Popen[bytes]:
        """Start `commops.launch.run.run(n, program, arguments, **options)` in an interpreter of its own."""
        text = ", ".join(f"{name}={value}" for name, value in options.items())
        code = RUN.format(n=n, options=text)
        return self.start(sys.executable, *flags, "-c", code, program, *arguments, env=env, **popen or {})

    def run(self, n: int, program: str | Path, *arguments: str, **options: object) -> tuple[int, str, str]:
        """Run it to its end and return its exit code, output and errors."""
        process = self.launcher(n, program, *arguments, **options)  # type: ignore[arg-type]
        out, err = process.communicate(timeout=60)
        return process.returncode, out.decode(), err.decode()

    def living(self) -> list[str]:
        """Return the command lines of all living processes that carry the mark."""
        entry = f"{MARK}={self._mark}".encode()
        found = []
        for pid in filter(str.isdecimal, os.listdir("/proc")):
            try:
                environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if entry in environ:  # a zombie's is empty
                found.append(f"{pid} {command}")
        return found

    def settle(self) -> list[str]:
        """Return what is still living when the kernel has had time to finish off what it was told to kill."""
        deadline = time.monotonic() + 10
        while (left := self.living()) and time.monotonic() < deadline:
            time.sleep(0.01)
        return left

    def close(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
        for line in self.living():
            os.kill(int(line.split()[0]), signal.SIGKILL)


def read_lines(process: subprocess.Popen[bytes], count: int) -> list[str]:
    """Read this many lines of a program's output."""
    assert process.stdout is not None
    return [process.stdout.readline().decode().rstrip("\n") for _ in range(count)]


def descriptors() -> dict[int, str]:
    """Return what this process has open."""

    def entries() -> Iterator[tuple[int, str]]:
        for name in os.listdir("/proc/self/fd"):
            try:
                yield int(name), os.readlink(f"/proc/self/fd/{name}")
            except OSError:  # the listing's own
                continue

    return dict(entries())


_RANK_VARIABLES = {
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "COMMOPS_RENDEZVOUS",
    "COMMOPS_JOB",
    "COMMOPS_TOKEN",
    "COMMOPS_TOKEN_FILE",
    "OMP_NUM_THREADS",
}
