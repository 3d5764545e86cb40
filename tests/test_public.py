"""What users rely on: every public name, with its signature, its sibling and its documentation."""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
import sys
import textwrap
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import pytest

import commops

# Each has a sibling with a leading i that takes the same arguments and returns a Work at once.
CALLS = {
    "barrier": "()",
    "broadcast": "(x, root=0)",
    "allreduce": "(x, op='sum', out=None)",
    "reduce": "(x, op='sum', root=0, out=None)",
    "reduce_scatter": "(x, op='sum', out=None, counts=None)",
    "scan": "(x, op='sum', out=None)",
    "exscan": "(x, op='sum', out=None)",
    "scatter": "(x, root=0, out=None, counts=None)",
    "gather": "(x, root=0, out=None, counts=None)",
    "allgather": "(x, out=None, counts=None)",
    "alltoall": "(x, out=None, send_counts=None, recv_counts=None)",
    "send": "(x, dest, tag=0)",
    "recv": "(out=None, source=-1, tag=-1, *, status=False)",
    "sendrecv": "(x, dest, source, out=None, tag=0)",
    "send_object": "(obj, dest, tag=0)",
    "recv_object": "(source=-1, tag=-1, *, status=False)",
    "broadcast_object": "(obj=None, root=0)",
    "scatter_object": "(objs=None, root=0)",
    "gather_object": "(obj, root=0)",
    "allgather_object": "(obj)",
    "alltoall_object": "(objs)",
    "reduce_object": "(obj, op='sum', root=0)",
    "allreduce_object": "(obj, op='sum')",
}

OTHERS = {
    "probe": "(source=-1, tag=-1)",
    "iprobe": "(source=-1, tag=-1)",
    "split": "(color, key=0)",
    "dup": "()",
    "revoke": "()",
    "agree": "(flag)",
    "shrink": "()",
    "grow": "()",
    "close": "()",
    "empty": "(shape, dtype=float64)",
    "zeros": "(shape, dtype=float64)",
}

FUNCTIONS = {
    "init": "(rendezvous=None, *, rank=None, size=None, transport='auto', timeout=60.0, token=None,"
    " tls=None)",
    "launch": "(fn, n, *args, transport='auto', timeout=None, **kwargs)",
}

WORK = {
    "wait": "(timeout=None)",
    "done": "()",
    "result": "(timeout=None)",
    "exception": "(timeout=None)",
}

NAMES = {
    *("ANY", "Comm", "Status", "Work", "__version__", "init", "launch"),
    *("AuthenticationError", "CommError", "CommTimeoutError", "MismatchError"),
    *("PeerLostError", "RendezvousError", "RevokedError"),
}


def signature_of(function: Any) -> str:
    """Write the parameters as a user reads them: names and defaults, no annotations, no self."""
    given = inspect.signature(function)
    bare = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for name, parameter in given.parameters.items()
        if name != "self"
    ]
    text = str(inspect.Signature(bare))
    return re.sub(r"<class 'numpy\.(\w+)'>", r"\1", text)


def is_public(name: str) -> bool:
    return not name.startswith("_")


def test_public_names_are_exactly_these() -> None:
    assert set(commops.__all__) == NAMES
    assert list(commops.__all__) == sorted(commops.__all__)
    assert all(hasattr(commops, name) for name in NAMES)


def test_version_is_that_of_the_installed_package() -> None:
    assert commops.__version__ == version("commops")


@pytest.mark.parametrize("name", CALLS)
def test_call_and_its_sibling_take_the_same_arguments(name: str) -> None:
    assert signature_of(getattr(commops.Comm, name)) == CALLS[name]
    assert signature_of(getattr(commops.Comm, f"i{name}")) == CALLS[name]


@pytest.mark.parametrize("name", CALLS)
def test_sibling_is_annotated_with_a_work_of_what_the_call_returns(name: str) -> None:
    result = inspect.signature(getattr(commops.Comm, name)).return_annotation
    assert inspect.signature(getattr(commops.Comm, f"i{name}")).return_annotation == f"Work[{result}]"


@pytest.mark.parametrize("name", OTHERS)
def test_method_takes_these_arguments(name: str) -> None:
    assert signature_of(getattr(commops.Comm, name)) == OTHERS[name]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_takes_these_arguments(name: str) -> None:
    assert signature_of(getattr(commops, name)) == FUNCTIONS[name]


@pytest.mark.parametrize("name", WORK)
def test_work_has_this_method(name: str) -> None:
    assert signature_of(getattr(commops.Work, name)) == WORK[name]


def test_work_can_be_awaited() -> None:
    assert inspect.isfunction(commops.Work.__await__)


def test_comm_has_no_public_method_that_is_not_listed_here() -> None:
    methods = {name for name, _ in inspect.getmembers(commops.Comm, inspect.isfunction) if is_public(name)}
    assert methods == {*CALLS, *(f"i{name}" for name in CALLS), *OTHERS}


def test_everything_public_has_a_docstring() -> None:
    objects = {name: getattr(commops, name) for name in NAMES - {"ANY", "__version__"}}
    for class_name in ("Comm", "Work"):
        members = inspect.getmembers(objects[class_name])
        objects |= {f"{class_name}.{name}": value for name, value in members if is_public(name)}
    undocumented = [
        name
        for name, value in objects.items()
        if (callable(value) or isinstance(value, property)) and not (inspect.getdoc(value) or "").strip()
    ]
    assert undocumented == []
    assert {"Comm.allreduce", "Comm.recv_object", "Comm.split", "Comm.timeout", "Work.wait"} <= objects.keys()


@pytest.mark.parametrize("name", sorted({*CALLS, *OTHERS} - {"close"}))
def test_docstring_says_what_is_raised(name: str) -> None:
    text = inspect.getdoc(getattr(commops.Comm, name)) or ""
    words = " ".join(text.split())
    assert "Raises\n------" in text or "rrors are those of `" in words or "the same errors" in words


@pytest.mark.parametrize("name", CALLS)
def test_docstring_of_a_sibling_refers_to_the_call(name: str) -> None:
    text = inspect.getdoc(getattr(commops.Comm, f"i{name}")) or ""
    assert re.match(rf"Start an? `{name}`\.", text)


@pytest.mark.parametrize("name", [*CALLS, *OTHERS])
def test_docstring_that_lists_parameters_names_each_of_them(name: str) -> None:
    method = getattr(commops.Comm, name)
    text = inspect.getdoc(method) or ""
    if "Parameters\n---" not in text:
        return
    section = text.split("Parameters\n----------\n", 1)[1].split("\n\n", 1)[0]
    documented = {
        word.strip()
        for line in section.splitlines()
        if re.match(r"\S", line)
        for word in line.split(" : ")[0].split(",")
    }
    assert documented == set(inspect.signature(method).parameters) - {"self"}


@pytest.mark.parametrize(
    ("error", "bases"),
    [
        (commops.PeerLostError, (commops.CommError,)),
        (commops.CommTimeoutError, (commops.CommError, TimeoutError)),
        (commops.MismatchError, (commops.CommError, ValueError)),
        (commops.RevokedError, (commops.CommError,)),
        (commops.RendezvousError, (commops.CommError,)),
        (commops.AuthenticationError, (commops.RendezvousError,)),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_errors_are_caught_by_the_classes_that_users_know(
    error: type[Exception], bases: tuple[type[Exception], ...]
) -> None:
    assert all(issubclass(error, base) for base in bases)


def test_without_its_compiled_part_the_import_says_how_to_build(tmp_path: Path) -> None:
    package = Path(cast(str, commops.__file__)).parent
    shutil.copytree(package, tmp_path / "commops", ignore=shutil.ignore_patterns("_native*", "__pycache__"))
    program = textwrap.dedent("""
        import sys
        sys.path.insert(0, sys.argv[1])
        try:
            import commops
        except ImportError as error:
            print(error)
    """)
    ended = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], check=True, capture_output=True, text=True
    )
    assert "pip install ." in ended.stdout
    assert "C compiler" in ended.stdout
