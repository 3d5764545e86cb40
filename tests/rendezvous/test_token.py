"""Where the token comes from, and that it goes nowhere else."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from commops.errors import RendezvousError
from commops.rendezvous import load_token, new_token, token


@pytest.fixture(autouse=True)
def no_token_around(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COMMOPS_TOKEN", raising=False)
    monkeypatch.delenv("COMMOPS_TOKEN_FILE", raising=False)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "token"
    path.touch(mode=0o600)
    monkeypatch.setenv("COMMOPS_TOKEN_FILE", str(path))
    return path


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_a_new_token_is_64_hexadecimal_digits_and_each_is_another() -> None:
    tokens = {new_token() for _ in range(10)}
    assert len(tokens) == 10
    assert all(len(bytes.fromhex(one.decode())) == 32 for one in tokens)


def test_a_token_is_not_shown() -> None:
    secret = load_token("open sesame")
    assert secret == b"open sesame"
    assert "sesame" not in f"{secret} {secret!r} {[secret]} {str(secret)}"  # noqa: RUF010
    copy = pickle.loads(pickle.dumps(secret))
    assert copy == secret
    assert repr(copy) == "<token>"


class TestOrder:
    def test_none_anywhere(self) -> None:
        assert load_token(None) is None

    def test_explicit_then_variable_then_file(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        file.write_bytes(b"of the file\n")
        assert load_token(None) == b"of the file"
        monkeypatch.setenv("COMMOPS_TOKEN", "of the variable")
        assert load_token(None) == b"of the variable"
        assert load_token("given") == b"given"
        assert load_token(b"given") == b"given"

    @pytest.mark.parametrize("ending", ["", "\n", "\r\n", "\n\n"])
    def test_newlines_at_the_end_do_not_count(
        self, file: Path, monkeypatch: pytest.MonkeyPatch, ending: str
    ) -> None:
        file.write_bytes(b" se\ncret " + ending.encode())
        assert load_token(None) == b" se\ncret "
        monkeypatch.setenv("COMMOPS_TOKEN", " se\ncret " + ending)
        assert load_token(None) == b" se\ncret "
        assert load_token(" se\ncret " + ending) == b" se\ncret "

    def test_bytes_that_are_no_text(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COMMOPS_TOKEN", os.fsdecode(b"\xff\xfe"))
        assert load_token(None) == b"\xff\xfe"


class TestEmpty:
    @pytest.mark.parametrize("nothing", ["", b"", "\n"])
    def test_given(self, nothing: str | bytes) -> None:
        with pytest.raises(ValueError, match="token is empty"):
            load_token(nothing)

    def test_variable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COMMOPS_TOKEN", "")
        with pytest.raises(ValueError, match="COMMOPS_TOKEN is empty"):
            load_token(None)

    def test_file(self, file: Path) -> None:
        with pytest.raises(ValueError, match="COMMOPS_TOKEN_FILE is empty"):
            load_token(None)


class TestFile:
    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644, 0o777])
    def test_open_to_others_is_refused(self, file: Path, mode: int) -> None:
        file.write_bytes(b"secret")
        file.chmod(mode)
        with pytest.raises(RendezvousError, match=rf"mode {mode:04o}\); run: chmod 600") as caught:
            load_token(None)
        assert "secret" not in str(caught.value)

    @pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
    def test_for_the_owner_alone_is_read(self, file: Path, mode: int) -> None:
        file.write_bytes(b"secret")
        file.chmod(mode)
        assert load_token(None) == b"secret"

    def test_a_link_is_judged_by_what_it_leads_to(self, file: Path, tmp_path: Path) -> None:
        target = tmp_path / "target"
        target.write_bytes(b"secret")
        target.chmod(0o644)
        file.unlink()
        file.symlink_to(target)
        with pytest.raises(RendezvousError, match="chmod 600"):
            load_token(None)
        target.chmod(0o600)
        assert load_token(None) == b"secret"

    def test_missing(self, file: Path) -> None:
        file.unlink()
        with pytest.raises(RendezvousError, match=r"cannot read .*token': No such file"):
            load_token(None)

    def test_a_folder_or_a_fifo_is_refused(self, file: Path) -> None:
        file.unlink()
        file.mkdir(mode=0o700)
        with pytest.raises(RendezvousError, match="neither a regular file nor a descriptor"):
            load_token(None)
        file.rmdir()
        os.mkfifo(file, 0o600)
        with pytest.raises(RendezvousError, match="neither a regular file nor a descriptor"):
            load_token(None)

    def test_too_long_to_be_one(self, file: Path) -> None:
        file.write_bytes(b"x" * 5000)
        with pytest.raises(ValueError, match="over 4096 bytes"):
            load_token(None)


class TestDescriptor:
    @pytest.mark.parametrize("path", ["/proc/self/fd/{}", "/dev/fd/{}"])
    def test_a_memfd_is_read_from_its_start_and_as_often_as_asked(
        self, path: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        descriptor = os.memfd_create("token")
        try:
            os.write(descriptor, b"secret\n")
            monkeypatch.setenv("COMMOPS_TOKEN_FILE", path.format(descriptor))
            assert load_token(None) == b"secret"
            assert load_token(None) == b"secret"
        finally:
            os.close(descriptor)

    def test_a_pipe_is_read_to_its_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        reading, writing = os.pipe()
        try:
            os.write(writing, b"secret\n")
            os.close(writing)
            monkeypatch.setenv("COMMOPS_TOKEN_FILE", f"/proc/self/fd/{reading}")
            assert load_token(None) == b"secret"
        finally:
            os.close(reading)

    def test_a_pipe_that_never_ends_is_an_error(
        self, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(token, "_READ_TIMEOUT", 0.05)
        monkeypatch.setenv("COMMOPS_TOKEN_FILE", f"/proc/self/fd/{pipe[0]}")
        with pytest.raises(RendezvousError, match="did not finish"):
            load_token(None)

    def test_one_that_is_not_open(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COMMOPS_TOKEN_FILE", "/proc/self/fd/987654")
        with pytest.raises(RendezvousError, match="cannot read"):
            load_token(None)
