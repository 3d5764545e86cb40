"""A Slurm of one node, in a folder of its own."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("munged", "munge", "slurmctld", "slurmd", "srun", "sinfo", "su")

_CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPort={controller}
SlurmdPort={daemon}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=1000 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:16
"""


def why_not() -> str | None:
    """Say what is missing for a Slurm of our own, or return None."""
    if os.geteuid() != 0:
        return "Slurm's daemons need root"
    missing = [program for program in PROGRAMS if _find(program) is None]
    if missing:
        return f"no {', '.join(missing)} (apt-get install slurm-wlm munge)"
    try:
        pwd.getpwnam("munge")
    except KeyError:
        return "no user munge (apt-get install munge)"
    return None


@contextlib.contextmanager
def slurm(folder: Path) -> Iterator[dict[str, str]]:
    """Run it, and yield the environment in which srun finds it."""
    with contextlib.ExitStack() as stack:
        folder.chmod(0o755)
        _start_munge(folder / "munge", stack)
        for name in ("state", "spool"):
            (folder / name).mkdir()
        (controller, daemon), host = _free_ports(2), socket.gethostname().partition(".")[0]
        configuration = folder / "slurm.conf"
        configuration.write_text(
            _CONFIGURATION.format(
                folder=folder, host=host, controller=controller, daemon=daemon, cpus=os.cpu_count()
            )
        )
        environ = {"SLURM_CONF": str(configuration)}
        for program, flag in (("slurmctld", "-i"), ("slurmd", "-M")):
            process = subprocess.Popen(
                [_find(program), "-D", flag, "-f", configuration],
                env=os.environ | environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            stack.callback(_stop, process)
        _await_idle(environ, folder)
        yield environ


def _start_munge(folder: Path, stack: contextlib.ExitStack) -> None:
    """Start an authentication daemon with a key of its own. It insists on owning all that it uses."""
    folder.mkdir()
    (folder / "key").write_bytes(os.urandom(128))
    (folder / "key").chmod(0o400)
    owner = pwd.getpwnam("munge")
    for path in (folder, folder / "key"):
        os.chown(path, owner.pw_uid, owner.pw_gid)
    options = {
        "socket": "socket",
        "key-file": "key",
        "pid-file": "pid",
        "log-file": "log",
        "seed-file": "seed",
    }
    text = " ".join(f"--{name}={folder}/{file}" for name, file in options.items())
    command = f"exec {_find('munged')} --force --foreground {text}"
    process = subprocess.Popen(
        ["su", "-s", "/bin/sh", "munge", "-c", command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        process_group=0,  # su and what it starts
    )
    stack.callback(_stop, process, group=True)
    deadline = time.monotonic() + 20
    while not (folder / "socket").exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"munged does not start: {_tail(folder / 'log')}")
        time.sleep(0.02)


def _await_idle(environ: dict[str, str], folder: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        done = subprocess.run(
            ["sinfo", "-h", "-o", "%t"], env=os.environ | environ, capture_output=True, text=True, check=False
        )
        if done.stdout.strip() == "idle":
            return
        if time.monotonic() > deadline:
            logs = _tail(folder / "slurmctld.log") + _tail(folder / "slurmd.log")
            raise RuntimeError(f"Slurm does not start: {done.stdout}{done.stderr}{logs}")
        time.sleep(0.2)


def _stop(process: subprocess.Popen[bytes], group: bool = False) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            if group:
                os.killpg(process.pid, number)
            else:
                process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
            return


def _find(program: str) -> str | None:
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [probe.getsockname()[1] for probe in probes]


def _tail(path: Path) -> str:
    return path.read_text()[-2000:] if path.exists() else ""
