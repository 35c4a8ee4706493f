import errno
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from mmopt._files import PARTIAL, atomic_files, atomic_path


def leftovers(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(PARTIAL)]


def test_new_file_appears_only_at_the_end(tmp_path):
    target = tmp_path / "table.csv.gz"
    with atomic_path(target) as path:
        path.write_text("whole")
        assert not target.exists()
        assert path.parent == target.parent
        assert path.name.endswith(".csv.gz")
    assert target.read_text() == "whole"
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    "error", [ValueError, KeyboardInterrupt, OSError(errno.ENOSPC, "No space left on device")]
)
def test_failure_leaves_the_old_file_and_nothing_else(tmp_path, error):
    target = tmp_path / "model.pt"
    target.write_text("old")
    with pytest.raises(error if isinstance(error, type) else OSError), atomic_path(target) as path:
        path.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert leftovers(tmp_path) == []


def test_full_disk_found_at_the_end_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    target = tmp_path / "model.pt"
    with pytest.raises(OSError, match="No space left"), atomic_path(target) as path:
        path.write_text("half")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX only")
def test_killed_process_leaves_the_old_file_and_a_recognisable_partial_one(tmp_path):
    target = tmp_path / "model.pt"
    target.write_text("old")
    script = """
        import os, signal, sys
        from mmopt._files import atomic_path
        with atomic_path(sys.argv[1]) as path:
            path.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script), str(target)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert target.read_text() == "old"
    assert len(leftovers(tmp_path)) == 1


def test_link_is_written_through_and_permissions_are_kept(tmp_path):
    target, link = tmp_path / "real.txt", tmp_path / "link.txt"
    target.write_text("old")
    target.chmod(0o640)
    link.symlink_to(target)
    with atomic_path(link) as path:
        path.write_text("new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert target.stat().st_mode & 0o777 == 0o640


def test_refusals(tmp_path):
    with (
        pytest.raises(FileNotFoundError, match=r"there is no folder .*missing"),
        atomic_path(tmp_path / "missing/a"),
    ):
        pass
    with pytest.raises(IsADirectoryError, match="is a folder"), atomic_path(tmp_path):
        pass
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "never_written"):
        pass


def test_several_files_appear_together_or_not_at_all(tmp_path):
    (tmp_path / "old.csv").write_text("old")
    (tmp_path / "other.csv").write_text("of the user")
    with pytest.raises(ValueError, match="disk"), atomic_files(tmp_path) as folder:
        (folder / "old.csv").write_text("half")
        raise ValueError("disk")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {
        "old.csv": "old",
        "other.csv": "of the user",
    }
    with atomic_files(tmp_path) as folder:
        (folder / "old.csv").write_text("new")
        (folder / "new.csv").write_text("new")
        assert (tmp_path / "old.csv").read_text() == "old"
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {
        "old.csv": "new",
        "new.csv": "new",
        "other.csv": "of the user",
    }
