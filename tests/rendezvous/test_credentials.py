"""Where key and certificates of TLS come from, what they must be, and that they go nowhere else."""

from __future__ import annotations

import os
import re
import ssl
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from commops.errors import RendezvousError
from commops.rendezvous import Credentials, load_credentials
from commops.rendezvous.token import read_private

pytest.importorskip("cryptography")

from commops.rendezvous.certificates import main, new_credentials

PEM = new_credentials()
KEY, CERTIFICATE, AUTHORITY = re.findall(rb"-----BEGIN.*?END [A-Z ]+-----\n", PEM, re.DOTALL)


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COMMOPS_TLS", "COMMOPS_TLS_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "job.pem"
    path.touch(mode=0o600)
    path.write_bytes(PEM)
    return path


class TestOrder:
    def test_none_anywhere(self) -> None:
        assert load_credentials() is None

    def test_argument(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COMMOPS_TLS_FILE", "/nowhere")
        for tls in (file, str(file)):
            found = load_credentials(tls)
            assert found is not None
            assert found.pem == PEM
            assert load_credentials(found) is found
        assert load_credentials(False) is None

    @pytest.mark.parametrize("tls", [None, True])
    @pytest.mark.parametrize("wanted", [None, "1"])
    def test_variable(
        self, tls: bool | None, wanted: str | None, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COMMOPS_TLS_FILE", str(file))
        if wanted:
            monkeypatch.setenv("COMMOPS_TLS", wanted)
        assert load_credentials(tls) is not None

    def test_a_descriptor(self, monkeypatch: pytest.MonkeyPatch) -> None:
        memory = os.memfd_create("credentials")
        try:
            os.write(memory, PEM)
            monkeypatch.setenv("COMMOPS_TLS_FILE", f"/proc/self/fd/{memory}")
            assert load_credentials() is not None
        finally:
            os.close(memory)

    def test_switched_off(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COMMOPS_TLS_FILE", str(file))
        monkeypatch.setenv("COMMOPS_TLS", "0")
        assert load_credentials() is None

    def test_asked_for_without_a_file(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(ValueError, match="tls=True asks for TLS, which needs a file"):
            load_credentials(True)
        monkeypatch.setenv("COMMOPS_TLS", "1")
        with pytest.raises(ValueError, match="COMMOPS_TLS=1 asks for TLS, which needs a file"):
            load_credentials()

    def test_nonsense(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(TypeError, match="tls must be the path"):
            load_credentials(3)  # type: ignore[arg-type]
        monkeypatch.setenv("COMMOPS_TLS", "yes")
        with pytest.raises(ValueError, match="COMMOPS_TLS must be 0 or 1, not 'yes'"):
            load_credentials()


class TestFile:
    def test_that_others_may_read(self, file: Path) -> None:
        file.chmod(0o640)
        with pytest.raises(RendezvousError, match=r"tls: .* is open to its group or to others .*chmod 600"):
            load_credentials(file)

    def test_that_is_missing(self, tmp_path: Path) -> None:
        with pytest.raises(RendezvousError, match=r"tls: cannot read .*No such file"):
            load_credentials(tmp_path / "missing")

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"", "no certificate"),
            (CERTIFICATE + AUTHORITY, "no private key"),
            (KEY, "no certificate"),
            (new_credentials().split(b"-----BEGIN CERT")[0] + CERTIFICATE, "private key is not that of"),
        ],
    )
    def test_that_does_not_do(self, content: bytes, words: str, file: Path) -> None:
        file.write_bytes(content)
        with pytest.raises(ValueError, match=f"the file '{file}' of tls: .*{words}"):
            load_credentials(file)

    def test_that_openssl_made(self, tmp_path: Path) -> None:
        """A certificate that nobody else has signed, as many make it by hand."""
        path = tmp_path / "own.pem"
        command = "umask 077 && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
        command += f" -subj /CN=job -keyout {path} -out {path}.crt && cat {path}.crt >> {path}"
        try:
            subprocess.run(["bash", "-c", command], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("no openssl here")
        found = load_credentials(path)
        assert found is not None
        assert [found.context(server=server) for server in (False, True)]


def test_they_are_not_shown() -> None:
    credentials = Credentials(PEM)
    assert f"{credentials} {credentials!r}" == "<credentials> <credentials>"


def test_python_s_side_takes_tls_1_3_with_certificates_alone() -> None:
    for server in (False, True):
        context = Credentials(PEM).context(server=server)
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.minimum_version is ssl.TLSVersion.TLSv1_3
        assert context.cert_store_stats()["x509"] == 1


def test_each_job_has_an_authority_of_its_own_whose_key_is_gone() -> None:
    other = new_credentials()
    assert other.count(b"PRIVATE KEY") == 2  # begin and end of one
    assert AUTHORITY not in other


class TestCommand:
    def test_writes_a_file_for_its_owner_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "job.pem"
        subprocess.run([sys.executable, "-m", "commops.rendezvous.certificates", path], check=True)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert load_credentials(path) is not None

    def test_overwrites_nothing(self, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([str(file)]) == 1
        assert "exists" in capsys.readouterr().err
        assert read_private(str(file), "the test", 1 << 20) == PEM

    def test_says_how_it_is_called(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([]) == 2
        assert "usage:" in capsys.readouterr().err
