"""What launchers put into the environment, as recorded from real ones, and what is made of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from commops.launch.environment import Environment, detect, expand_nodelist


def no_proxy(variable: str, value: str) -> str:
    raise AssertionError("no need to look for a proxy")


def found(environ: dict[str, str]) -> Environment:
    environment = detect(environ, proxy=lambda variable, value: "4165.283479")
    assert environment is not None
    return environment


COMMOPS = {
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "46763",
    "COMMOPS_JOB": "here.4711",
    "COMMOPS_RENDEZVOUS": "tcp://127.0.0.1:45897",
}
TORCHRUN = {  # torchrun 2.13 --nproc-per-node 2
    "GROUP_RANK": "0",
    "GROUP_WORLD_SIZE": "1",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "localhost",
    "MASTER_PORT": "36579",
    "OMP_NUM_THREADS": "1",
    "RANK": "1",
    "ROLE_NAME": "default",
    "ROLE_RANK": "1",
    "ROLE_WORLD_SIZE": "2",
    "TORCHELASTIC_MAX_RESTARTS": "0",
    "TORCHELASTIC_RESTART_COUNT": "0",
    "TORCHELASTIC_RUN_ID": "2ae930ff-101f-4d30-a33b-bbbfd30b9c9a",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
    "WORLD_SIZE": "2",
}
OPENMPI = {  # Open MPI 5.0, mpiexec -n 2
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_COMM_WORLD_NODE_RANK": "1",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_MCA_num_procs": "2",
    "OMPI_UNIVERSE_SIZE": "2",
    "OMPI_VERSION": "5.0.11",
    "PMIX_HOSTNAME": "here",
    "PMIX_NAMESPACE": "prterun-here-4149@1",
    "PMIX_RANK": "1",
}
MPICH = {  # MPICH 5.0, mpiexec -n 2
    "GFORTRAN_UNBUFFERED_PRECONNECTED": "y",
    "HYDI_CONTROL_FD": "7",
    "MPI_LOCALNRANKS": "2",
    "MPI_LOCALRANKID": "1",
    "PMI_FD": "11",
    "PMI_HOSTNAME": "here",
    "PMI_RANK": "1",
    "PMI_SIZE": "2",
}
INTEL = {  # Intel MPI 2021.19, mpiexec -n 2
    "HYDRA_BSTRAP_LAUNCHER": "ssh",
    "HYDRA_BSTRAP_LOCALHOST": "here",
    "I_MPI_HYDRA_UUID": "50100000-947b-c447-b760-06002307da11",
    "MPI_LOCALNRANKS": "2",
    "MPI_LOCALRANKID": "1",
    "PMI_FD": "11",
    "PMI_RANK": "1",
    "PMI_SIZE": "2",
}
SLURM = {  # Slurm 22.05, srun -n 2
    "SLURMD_NODENAME": "here",
    "SLURM_JOB_ID": "17",
    "SLURM_JOB_NODELIST": "here",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "0",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "here",
    "SLURM_STEP_NUM_NODES": "1",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_TASKS_PER_NODE": "2",
}
SLURM_PMI2 = SLURM | {"PMI_FD": "11", "PMI_JOBID": "17.0", "PMI_RANK": "1", "PMI_SIZE": "2"}

ONE_HOST = {
    "commops": COMMOPS,
    "torchrun": TORCHRUN,
    "openmpi": OPENMPI,
    "mpich": MPICH,
    "intel": INTEL,
    "slurm": SLURM,
    "slurm-pmi2": SLURM_PMI2,
}


@pytest.mark.parametrize("name", ONE_HOST)
def test_rank_and_size_on_one_host(name: str) -> None:
    environment = found(ONE_HOST[name])
    assert (environment.rank, environment.size) == (1, 2)
    assert (environment.local_rank, environment.local_size) == (1, 2)
    assert environment.launcher == {"mpich": "hydra", "intel": "hydra", "slurm-pmi2": "slurm"}.get(name, name)


@pytest.mark.parametrize("name", [name for name in ONE_HOST if name != "commops"])
def test_ranks_of_one_host_meet_at_a_unix_socket_named_after_the_job(name: str) -> None:
    environ = ONE_HOST[name]
    here = found(environ).rendezvous
    assert here is not None
    assert re.fullmatch(r"unix:commops-[0-9a-f]{64}", here)
    others = {"RANK": "0", "LOCAL_RANK": "0", "PMI_RANK": "0", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    others |= {
        "OMPI_COMM_WORLD_RANK": "0",
        "OMPI_COMM_WORLD_LOCAL_RANK": "0",
        "PMI_FD": "9",
        "PMIX_RANK": "0",
    }
    sibling = found({key: others.get(key, value) for key, value in environ.items()})
    assert sibling.rank == 0
    assert sibling.rendezvous == here


@pytest.mark.parametrize(
    ("environ", "change"),
    [
        (TORCHRUN, {"TORCHELASTIC_RUN_ID": "another"}),
        (TORCHRUN, {"TORCHELASTIC_RESTART_COUNT": "1"}),
        (TORCHRUN, {"MASTER_PORT": "36580"}),
        (OPENMPI, {"PMIX_NAMESPACE": "prterun-here-4150@1"}),
        (INTEL, {"I_MPI_HYDRA_UUID": "another"}),
        (SLURM, {"SLURM_JOB_ID": "18"}),
        (SLURM, {"SLURM_STEP_ID": "1"}),
    ],
)
def test_another_job_meets_elsewhere(environ: dict[str, str], change: dict[str, str]) -> None:
    assert found(environ).rendezvous != found(environ | change).rendezvous


def test_mpich_jobs_are_told_apart_by_their_proxy() -> None:
    one = detect(MPICH, proxy=lambda *_: "1.5")
    two = detect(MPICH, proxy=lambda *_: "2.5")
    assert one is not None
    assert two is not None
    assert one.rendezvous != two.rendezvous


def test_the_proxy_is_the_nearest_process_outside_of_the_rank() -> None:
    # A shell around the rank has the rank's variables; whoever started that shell has not.
    program = (
        "import os; from commops.launch.environment import detect; print(detect(os.environ).job); "
        "print(os.getppid(), flush=True)"
    )
    environ = os.environ | MPICH | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    for name in ("RANK", "WORLD_SIZE", "SLURM_STEP_ID"):
        environ.pop(name, None)
    command = ["sh", "-c", '"$0" -c "$1"; true', sys.executable, program]
    jobs = []
    for _ in range(2):
        out = subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout
        job, shell = out.split()
        assert job.split(".")[0] == str(os.getpid()) != shell
        jobs.append(job)
    assert jobs[0] == jobs[1]


@pytest.mark.parametrize("environ", [{}, {"PATH": "/bin"}, {"LOCAL_RANK": "0"}, {"MASTER_ADDR": "a"}])
def test_nothing_is_found_where_nobody_launched(environ: dict[str, str]) -> None:
    assert detect(environ, proxy=no_proxy) is None


def test_a_batch_script_of_slurm_is_no_task() -> None:
    batch = {"SLURM_JOB_ID": "3", "SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_LOCALID": "0"}
    assert detect(batch) is None


def test_a_single_rank_needs_no_place_to_meet() -> None:
    environment = detect({"RANK": "0", "WORLD_SIZE": "1"}, proxy=no_proxy)
    assert environment is not None
    assert (environment.size, environment.rendezvous) == (1, None)


def test_our_launcher_is_told_from_others() -> None:
    assert found(COMMOPS).launcher == "commops"
    for name, environ in ONE_HOST.items():
        assert (found(environ).launcher == "commops") == (name == "commops")


def test_plain_variables_meet_at_the_master_port() -> None:
    plain = {"RANK": "3", "WORLD_SIZE": "4", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}
    assert found(plain).rendezvous == "tcp://10.0.0.1:29500"
    assert found(plain).launcher == "env"
    assert found(plain | {"MASTER_ADDR": "fd00::1"}).rendezvous == "tcp://[fd00::1]:29500"


def test_the_port_of_torchruns_own_store_is_left_alone() -> None:
    hosts = {"WORLD_SIZE": "4", "MASTER_ADDR": "node1", "MASTER_PORT": "29500"}
    assert found(TORCHRUN | hosts).rendezvous == "tcp://node1:29501"
    assert found(TORCHRUN | hosts | {"MASTER_PORT": "65535"}).rendezvous == "tcp://node1:65534"
    own = hosts | {"TORCHELASTIC_USE_AGENT_STORE": "False"}
    assert found(TORCHRUN | own).rendezvous == "tcp://node1:29500"


@pytest.mark.parametrize("name", ONE_HOST)
def test_an_explicit_rendezvous_wins(name: str) -> None:
    environ = ONE_HOST[name] | {"COMMOPS_RENDEZVOUS": "file:///shared/job"}
    assert found(environ).rendezvous == "file:///shared/job"


def test_slurm_over_several_hosts_meets_at_the_first() -> None:
    step = {
        "SLURM_PROCID": "5",
        "SLURM_LOCALID": "1",
        "SLURM_NODEID": "2",
        "SLURM_STEP_NUM_TASKS": "7",
        "SLURM_STEP_TASKS_PER_NODE": "2(x3),1",
        "SLURM_STEP_NODELIST": "node[08-11]",
    }
    environment = found(SLURM | step)
    assert (environment.rank, environment.size, environment.local_rank, environment.local_size) == (
        5,
        7,
        1,
        2,
    )
    match = re.fullmatch(r"tcp://node08:(\d+)", environment.rendezvous or "")
    assert match
    assert 20000 <= int(match[1]) < 32000
    last = found(SLURM | step | {"SLURM_PROCID": "6", "SLURM_LOCALID": "0", "SLURM_NODEID": "3"})
    assert last.local_size == 1
    assert last.rendezvous == environment.rendezvous


@pytest.mark.parametrize("environ", [OPENMPI, INTEL, MPICH])
def test_mpirun_over_several_hosts_needs_help_outside_slurm(environ: dict[str, str]) -> None:
    several = environ | {name: "4" for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE") if name in environ}
    environment = found(several)
    assert environment.rendezvous is None
    assert "COMMOPS_RENDEZVOUS" in environment.hint
    inside = found(
        several | {"SLURM_JOB_ID": "17", "SLURM_JOB_NODELIST": "a[1-2]", "SLURM_STEP_NODELIST": "a2"}
    )
    assert (inside.rendezvous or "").startswith("tcp://a1:")


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"RANK": "0"}, ["WORLD_SIZE is not set", "RANK='0'"]),
        ({"WORLD_SIZE": "2"}, ["RANK is not set", "WORLD_SIZE='2'"]),
        ({"RANK": "x", "WORLD_SIZE": "2"}, ["RANK='x'"]),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, ["RANK='-1'"]),
        ({"RANK": "1.0", "WORLD_SIZE": "2"}, ["RANK='1.0'"]),
        ({"RANK": "", "WORLD_SIZE": "2"}, ["RANK=''"]),
        ({"RANK": "٣", "WORLD_SIZE": "9"}, ["RANK='٣'"]),
        ({"RANK": "2", "WORLD_SIZE": "2"}, ["RANK=2", "WORLD_SIZE=2"]),
        ({"RANK": "0", "WORLD_SIZE": "0"}, ["RANK=0", "WORLD_SIZE=0"]),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, ["LOCAL_WORLD_SIZE is not set"]),
        ({"RANK": "0", "WORLD_SIZE": "2"}, ["MASTER_ADDR is not"]),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a"}, ["MASTER_PORT is not"]),
        (TORCHRUN | {"MASTER_PORT": "http"}, ["MASTER_PORT='http'"]),
        (TORCHRUN | {"MASTER_PORT": "70000"}, ["MASTER_PORT='70000'"]),
        (TORCHRUN | {"LOCAL_WORLD_SIZE": "3"}, ["LOCAL_WORLD_SIZE=3", "WORLD_SIZE=2"]),
        ({"OMPI_COMM_WORLD_RANK": "1"}, ["OMPI_COMM_WORLD_SIZE is not set", "OMPI_COMM_WORLD_RANK='1'"]),
        (OPENMPI | {"PMIX_NAMESPACE": ""}, ["PMIX_NAMESPACE"]),
        ({"PMI_RANK": "0", "PMI_SIZE": "2"}, ["MPI_LOCALRANKID is not set"]),
        (MPICH | {"PMI_SIZE": "many"}, ["PMI_SIZE='many'"]),
        (SLURM | {"SLURM_PROCID": "2"}, ["SLURM_PROCID=2", "SLURM_STEP_NUM_TASKS=2"]),
        (SLURM | {"SLURM_LOCALID": "2"}, ["SLURM_LOCALID=2"]),
        (SLURM | {"SLURM_STEP_TASKS_PER_NODE": "2(y3)"}, ["SLURM_STEP_TASKS_PER_NODE='2(y3)'"]),
        (SLURM | {"SLURM_NODEID": "1"}, ["SLURM_NODEID=1"]),
    ],
)
def test_half_an_environment_is_an_error_that_names_the_variable(
    environ: dict[str, str], words: list[str]
) -> None:
    with pytest.raises(ValueError, match=re.escape(words[0])) as caught:
        detect(environ, proxy=no_proxy)
    for word in words[1:]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("here", ["here"]),
        ("a,b", ["a", "b"]),
        ("node[1-3]", ["node1", "node2", "node3"]),
        ("node[08-10,3]-ib,login", ["node08-ib", "node09-ib", "node10-ib", "node3-ib", "login"]),
        ("r[1-2]n[1-2]", ["r1n1", "r1n2", "r2n1", "r2n2"]),
    ],
)
def test_nodelist_expands(text: str, hosts: list[str]) -> None:
    assert expand_nodelist(text) == hosts


@pytest.mark.parametrize("text", ["", "a[", "a]1[", "a[2-1]", "a[x]", "a[]", "a,,b", "a b"])
def test_nodelist_that_makes_no_sense_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="node list"):
        expand_nodelist(text)
