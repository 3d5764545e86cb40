"""What is particular to the store in a folder: its lock, its files, and folders that will not do."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from commops.errors import RendezvousError
from commops.rendezvous import FileStore


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


HOLD_THE_LOCK = """
    import fcntl, sys
    lock = open(sys.argv[1] + "/lock", "a")
    fcntl.flock(lock, fcntl.LOCK_EX)
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_lock_that_is_held_is_a_timeout_and_its_owners_death_releases_it(
    file_store: FileStore, tmp_path: Path
) -> None:
    file_store.set("key", b"before")
    with start(HOLD_THE_LOCK, str(tmp_path / "store")) as owner:
        try:
            assert owner.stdout is not None
            owner.stdout.readline()
            for change in (
                lambda: file_store.set("key", b"after", timeout=0.05),
                lambda: file_store.add("n", timeout=0),
                lambda: file_store.delete("key", timeout=0.01),
                lambda: file_store.compare_and_set("key", b"before", b"after", timeout=0.01),
            ):
                with pytest.raises(RendezvousError, match=r"store/lock'.*another process keeps locked"):
                    change()
            assert file_store.get("key", timeout=0) == b"before"  # reading needs no lock
        finally:
            owner.kill()
    file_store.set("key", b"after", timeout=20)
    assert file_store.get("key") == b"after"


def test_a_child_forked_under_the_lock_does_not_keep_it(file_store: FileStore, tmp_path: Path) -> None:
    script = """
        import os, sys, threading
        from commops.rendezvous import FileStore, file_store
        locked, done = threading.Event(), threading.Event()

        def write(self, key, value):
            locked.set()
            done.wait()

        FileStore._write = write
        store = FileStore(sys.argv[1])
        threading.Thread(target=store.set, args=("key", b""), daemon=True).start()
        locked.wait()
        if os.fork() == 0:
            print("forked", flush=True)
            sys.stdin.read()
            os._exit(0)
        sys.stdin.read()
    """
    with start(script, str(tmp_path / "store")) as owner:
        try:
            assert owner.stdout is not None
            owner.stdout.readline()
            with pytest.raises(RendezvousError, match="keeps locked"):
                file_store.add("n", timeout=0)
        finally:
            owner.kill()
            owner.wait()
        # The child still lives, and holds the other end of our pipe.
        assert file_store.add("n", timeout=20) == 1


def test_what_a_dead_writer_left_is_no_key(file_store: FileStore, tmp_path: Path) -> None:
    file_store.set("key", b"value")
    (tmp_path / "store" / "new-abcdef").write_bytes(b"half a va")
    assert file_store.count() == 1
    assert file_store.count("k") == 1


def test_a_failed_write_leaves_no_file(
    file_store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_store.set("key", b"value")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = sorted(os.listdir(tmp_path / "store"))
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        with pytest.raises(RendezvousError, match="No space left"):
            file_store.set("other", b"value")
    assert sorted(os.listdir(tmp_path / "store")) == before
    assert file_store.get("key") == b"value"


@pytest.mark.parametrize("content", [b"", b"commops\x01", b"commops\x01\0\0\0\xffkey", b"x" * 100])
def test_a_damaged_file_is_an_error(file_store: FileStore, tmp_path: Path, content: bytes) -> None:
    file_store.set("key", b"value")
    (file,) = (tmp_path / "store").glob("key-*")
    file.write_bytes(content)
    with pytest.raises(RendezvousError, match="damaged"):
        file_store.get("key")
    with pytest.raises(RendezvousError, match="damaged"):
        file_store.count("k")


def test_the_folder_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    with FileStore(folder) as store:
        store.set("key", b"value")
    assert stat.S_IMODE(folder.stat().st_mode) & 0o077 == 0
    assert all(stat.S_IMODE(file.stat().st_mode) & 0o077 == 0 for file in folder.iterdir())


def test_a_folder_that_everyone_may_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(RendezvousError, match="everyone on this machine may write"):
        FileStore(tmp_path)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(RendezvousError, match="that is a file; name a folder"):
        FileStore(tmp_path / "file")


def test_a_link_to_nothing_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    with pytest.raises(RendezvousError, match="No such file"):
        FileStore(tmp_path / "link")


def test_a_missing_parent_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(RendezvousError, match=r"there is no folder '.*/a' to make it in; make that, or name"):
        FileStore(tmp_path / "a" / "b")
    assert os.listdir(tmp_path) == []


# ---- what remains


def test_the_folder_goes_with_its_last_key(tmp_path: Path) -> None:
    one, other = FileStore(tmp_path / "store"), FileStore(tmp_path / "store")
    one.set("key", b"value")
    one.close()
    assert other.get("key", timeout=0) == b"value"
    other.delete("key")
    other.close()
    other.close()
    assert os.listdir(tmp_path) == []


def test_the_last_of_many_that_close_at_once_tidies_up(tmp_path: Path) -> None:
    def use(number: int) -> None:
        for _ in range(20):
            with FileStore(tmp_path / "store", timeout=20) as store:
                store.set(f"{number}", b"")
                assert store.count(f"{number}") == 1
                store.delete(f"{number}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(use, range(4)))
    FileStore(tmp_path / "store").close()
    assert os.listdir(tmp_path) == []


def test_a_folder_of_the_users_own_stays(tmp_path: Path) -> None:
    with FileStore(tmp_path) as store:
        store.set("key", b"value")
        store.delete("key")
    assert os.listdir(tmp_path) == []


def test_files_of_the_users_own_stay(tmp_path: Path) -> None:
    with FileStore(tmp_path / "store") as store:
        store.add("n")
        (tmp_path / "store" / "notes").write_bytes(b"")
        store.delete("n")
    assert sorted(os.listdir(tmp_path / "store")) == ["lock", "notes"]


def test_a_folder_that_somebody_tidied_up_is_made_again(tmp_path: Path) -> None:
    with FileStore(tmp_path / "store") as store:
        with FileStore(tmp_path / "store") as other:
            assert other.count() == 0
        assert os.listdir(tmp_path) == []
        store.set("key", b"value")
        assert store.get("key", timeout=0) == b"value"


def test_a_lock_file_that_was_removed_locks_nothing(tmp_path: Path, file_store: FileStore) -> None:
    file_store.set("key", b"before")
    with start(HOLD_THE_LOCK, str(tmp_path / "store")) as owner:
        assert owner.stdout is not None
        owner.stdout.readline()
        (tmp_path / "store" / "lock").unlink()
        file_store.set("key", b"after", timeout=0)
        owner.kill()
    assert file_store.get("key") == b"after"


def test_whoever_reads_in_a_folder_that_went_away_does_not_wait(tmp_path: Path) -> None:
    with FileStore(tmp_path / "store") as store:
        store.add("n")
        shutil.rmtree(tmp_path / "store")
        for call in (lambda: store.get("key", 20), lambda: store.wait(["key"], 20)):
            with pytest.raises(RendezvousError, match="No such file"):
                call()


def test_the_folder_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with FileStore("store") as store:
        store.set("key", b"value")
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert store.get("key") == b"value"
