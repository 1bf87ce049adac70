"""Files are written whole or not at all, places are tried before the work, and one training runs per name."""

import os
import subprocess
import sys
import threading

import pytest

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.io.safe_write import (
    check_output,
    check_output_folder,
    only_one,
    replacing,
    reserved,
    write_text,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_failing_writer_leaves_the_old_file(tmp_path):
    write_text(tmp_path / "a.txt", "old")

    def fail():
        with replacing(tmp_path / "a.txt") as part:
            part.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_full_disk_is_one_sentence(tmp_path):
    with (
        pytest.raises(RegionStyleError, match="output: got .*No space left.*can be written"),
        replacing(tmp_path / "a"),
    ):
        raise OSError(28, "No space left on device")
    assert not names(tmp_path)


def test_many_writers_of_one_file(tmp_path):
    texts = [f"{number}" * 20000 for number in range(8)]
    threads = [threading.Thread(target=write_text, args=(tmp_path / "a.txt", text)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a.txt").read_text() in texts
    assert names(tmp_path) == ["a.txt"]


def test_links_are_followed_and_devices_written(tmp_path):
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to(tmp_path / "real.txt")
    write_text(tmp_path / "link.txt", "new")
    assert (tmp_path / "real.txt").read_text() == "new"
    assert (tmp_path / "link.txt").is_symlink()
    with replacing(tmp_path / os.devnull) as part:
        part.write_text("gone")
    assert not (tmp_path / os.devnull).is_file()


def test_many_reservations_are_all_different(tmp_path):
    taken = []

    def take():
        taken.append(reserved(tmp_path / f"run[1]_{number:05}.json" for number in range(100)))

    threads = [threading.Thread(target=take) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(taken)) == 12


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a.pt", "ending in .safetensors"),
        ("folder.safetensors", "which is a folder"),
        ("file.txt/a.safetensors", "can be written"),
        ("n" * 260 + ".safetensors", "File name too long"),
    ],
)
def test_places_that_cannot_be_written(tmp_path, name, said):
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(RegionStyleError, match=said):
        check_output(tmp_path / name, (".safetensors",))
    assert names(tmp_path) == ["file.txt", "folder.safetensors"]


def test_a_full_disk_is_found_before_the_work(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)  # where file systems that allot late find out
    with pytest.raises(RegionStyleError, match="No space left"):
        check_output(tmp_path / "a.png", (".png",))
    assert not names(tmp_path)


def test_checking_leaves_nothing_and_changes_nothing(tmp_path):
    (tmp_path / "old.png").write_text("old")
    check_output(tmp_path / "old.png", (".png",))
    check_output(tmp_path / "a" / "b" / "c.png", (".png",))
    check_output_folder(tmp_path / "d" / "e")
    assert names(tmp_path) == ["old.png"]
    assert (tmp_path / "old.png").read_text() == "old"
    with pytest.raises(RegionStyleError, match="which is a file"):
        check_output_folder(tmp_path / "old.png")


def test_a_second_training_of_one_name_is_refused_until_the_first_ends(tmp_path):
    lock = tmp_path / "a.lock"
    with only_one(lock, "a training of 'a'"):
        running = pytest.raises(RegionStyleError, match="a training of 'a', which is running now")
        with running, only_one(lock, "a training of 'a'"):
            pytest.fail("two at once")
        assert lock.exists()
    with only_one(lock, "a training of 'a'"):
        pass
    assert not names(tmp_path)


def test_a_killed_training_frees_its_name(tmp_path):
    lock = tmp_path / "a.lock"
    code = (
        "import sys, time; from pathlib import Path\n"
        "from regionstyle.nodes.engine.io.safe_write import only_one\n"
        "with only_one(Path(sys.argv[1]), 'it'):\n    print('in', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "in\n"
        with pytest.raises(RegionStyleError, match="running now"), only_one(lock, "it"):
            pytest.fail("two at once")
        child.kill()
    with only_one(lock, "it"):
        pass
