"""`regionstyle download` against a server that speaks the hub's protocol: resume, checks, refusals, places."""

import json
import shutil
from collections import namedtuple

import pytest
from hub_server import SAM, WEIGHTS

from regionstyle.nodes.app.cli.main import main
from regionstyle.nodes.app.downloads.transfer import PARTS

pytestmark = pytest.mark.usefixtures("catalogue")


@pytest.fixture
def download(tmp_path, capsys):
    """`download(*arguments)`: exit code, stdout, the one line of stderr; what comes lies in tmp_path / models."""

    def run(*arguments: str, yes: bool = True):
        code = main(["download", *arguments, "--folder", str(tmp_path / "models"), *(["--yes"] if yes else [])])
        told = capsys.readouterr()
        lines = [line for line in told.err.splitlines() if line.startswith("regionstyle:")]
        return code, told.out, "\n".join(lines)

    return run


def test_a_set_comes_to_its_places_and_only_what_was_named(download, tmp_path):
    code, out, _ = download("both")
    models = tmp_path / "models"
    assert code == 0
    found = {path.relative_to(models).as_posix(): path.read_bytes() for path in models.rglob("*") if path.is_file()}
    assert found == {
        "grounding_dino/finder/config.json": b'{"model_type": "finder"}',
        "grounding_dino/finder/model.safetensors": WEIGHTS,
        "sams/sam_vit_b.pth": SAM,
    }
    assert f"finder: {models / 'grounding_dino' / 'finder'}\n" in out
    assert f"sam: {models / 'sams' / 'sam_vit_b.pth'}\n" in out
    assert "licence MIT" in out


def test_what_is_there_is_not_downloaded_again(download, hub):
    download("both")
    hub.asked.clear()
    code, out, _ = download("both")
    assert code == 0
    assert out.count("is there: ") == 3
    assert not hub.bodies("model.safetensors")
    assert not hub.bodies("sam_vit_b.pth")


@pytest.mark.parametrize(
    ("name", "file", "content"), [("finder", "model.safetensors", WEIGHTS), ("sam", "sam_vit_b.pth", SAM)]
)
def test_a_cut_connection_is_taken_up_in_the_same_run(name, file, content, download, hub, tmp_path):
    hub.cut[file] = [4000, 3000]
    assert download(name)[0] == 0
    assert next((tmp_path / "models").rglob(file)).read_bytes() == content
    assert hub.bodies(file) == [None, "bytes=4000-", "bytes=7000-"]


def test_a_run_that_gave_up_is_taken_up_by_the_next_one(download, hub, tmp_path):
    """Every try is cut at once after the first bytes, until huggingface_hub gives up."""
    hub.cut["model.safetensors"] = [5000, *[0] * 20]
    code, _, error = download("finder")
    assert code == 2
    assert "team/finder cannot be reached" in error
    assert not (tmp_path / "models" / "grounding_dino" / "finder" / "model.safetensors").exists()
    hub.cut.clear()
    hub.asked.clear()
    assert download("finder")[0] == 0
    assert hub.bodies("model.safetensors") == ["bytes=5000-"]
    assert (tmp_path / "models" / "grounding_dino" / "finder" / "model.safetensors").read_bytes() == WEIGHTS
    assert not (tmp_path / "models" / PARTS).exists()


def test_a_wrong_hash_is_thrown_away(download, hub, tmp_path):
    hub.wrong.add("model.safetensors")
    code, _, error = download("finder")
    assert code == 2
    assert "is not the public file (SHA-256" in error
    assert not list((tmp_path / "models").rglob("*.safetensors"))
    assert not list((tmp_path / "models").rglob("*.part"))


def test_a_file_that_is_shorter_than_its_source_says_is_not_put_there(download, hub, tmp_path):
    hub.larger.add("model.safetensors")
    code, _, error = download("finder")
    assert code == 2
    assert "model.safetensors" in error or "team/finder" in error
    assert error.count("\n") == 0
    assert not list((tmp_path / "models").rglob("*.safetensors"))


def test_what_an_earlier_run_left_too_long_is_thrown_away(download, hub, tmp_path):
    """A rest that cannot be the beginning of the file: it is not taken up, and the next run begins anew."""
    hub.cut["model.safetensors"] = [5000, *[0] * 20]
    download("finder")
    (part,) = (tmp_path / "models" / PARTS).glob("*.part")
    part.write_bytes(b"x" * (len(WEIGHTS) + 1))
    hub.cut.clear()
    code, _, error = download("finder")
    assert code == 2
    assert f"{len(WEIGHTS) + 1} bytes, expected {len(WEIGHTS)}" in error
    assert not part.exists()
    assert download("finder")[0] == 0


def test_tests_ask_this_machine_only():
    """What would be asked of a real registry is an error here, whatever the environment says."""
    import socket

    with pytest.raises(OSError, match="another machine"):
        socket.create_connection(("huggingface.co", 443), timeout=1)
    with pytest.raises(OSError, match="another machine"):
        socket.create_connection(("93.184.216.34", 443), timeout=1)


def test_a_plain_file_that_is_not_the_known_one_is_refused_before_it_is_downloaded(download, hub):
    hub.plain["sam/sam_vit_b.pth"] = SAM + b"more"
    code, _, error = download("sam")
    assert code == 2
    assert "holds another sam_vit_b.pth now than the catalogue knows" in error
    assert not hub.bodies("sam_vit_b.pth")


def test_a_plain_file_of_the_right_size_with_another_hash_is_thrown_away(download, hub, tmp_path):
    hub.plain["sam/sam_vit_b.pth"] = SAM[::-1]
    code, _, error = download("sam")
    assert code == 2
    assert "is not the public file (SHA-256" in error
    assert not list((tmp_path / "models").rglob("sam*"))


def test_another_file_in_its_place_is_left_as_it_is(download, hub, tmp_path):
    mine = tmp_path / "models" / "sams" / "sam_vit_b.pth"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"my own")
    code, _, error = download("sam", "finder")
    assert code == 2
    assert str(mine) in error
    assert "is left as it is" in error
    assert mine.read_bytes() == b"my own"
    assert not hub.bodies("model.safetensors"), "asked first, nothing was downloaded"


def test_a_file_that_comes_meanwhile_is_not_written_over(tmp_path, hub):
    from regionstyle.nodes.app.downloads.catalogue import load_catalogue
    from regionstyle.nodes.app.downloads.download import plan, run
    from regionstyle.nodes.engine.errors import RegionStyleError

    made = plan(load_catalogue().choose(["sam"], False), tmp_path / "models")
    mine = tmp_path / "models" / "sams" / "sam_vit_b.pth"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"my own")
    with pytest.raises(RegionStyleError, match="left as it is"):
        run(made)
    assert mine.read_bytes() == b"my own"


def test_a_gated_model_needs_a_token_and_says_how(download, hub, tmp_path, monkeypatch):
    code, _, error = download("gated")
    assert code == 2
    assert f"{hub.url}/team/gated asks for a token" in error
    assert "HF_TOKEN" in error
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert download("gated")[0] == 0
    assert next((tmp_path / "models").rglob("model.safetensors")).read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("gone", "no such public repository"),
        ("moved", "has no file 'other.bin'"),
        ("moon", "expected one of: both, finder, sam, gated, gone, moved"),
    ],
)
def test_what_is_not_there_is_one_sentence(name, part, download):
    code, _, error = download(name)
    assert code == 2
    assert part in error
    assert error.count("\n") == 0


def test_no_network_is_one_sentence(download, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    code, _, error = download("finder")
    assert code == 2
    assert "team/finder cannot be reached" in error


def test_a_disk_that_is_too_small_is_told_first(download, hub, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 1000, 1000))
    code, _, error = download("both")
    assert code == 2
    assert "117 kB are missing and the disk has 1 kB free" in error
    assert not hub.bodies("sam_vit_b.pth")


def test_a_dry_run_downloads_nothing(download, hub, tmp_path):
    code, out, _ = download("both", "--dry-run", yes=False)
    assert code == 0
    assert "to download: 117 kB in 3 files" in out
    assert not (tmp_path / "models").exists()
    assert not hub.bodies("sam_vit_b.pth")


def test_it_asks_first(download, hub, monkeypatch):
    class Terminal:
        def __init__(self, answer):
            self.readline = lambda: answer

        def isatty(self):
            return True

    code, _, error = download("sam", yes=False)
    assert code == 2
    assert "Add --yes" in error, "nobody sits there"
    monkeypatch.setattr("sys.stdin", Terminal("\n"))
    code, _, error = download("sam", yes=False)
    assert code == 3
    assert not hub.bodies("sam_vit_b.pth")
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    assert download("sam", yes=False)[0] == 0


def test_a_catalogue_that_cannot_be_read_is_one_sentence(catalogue, download):
    catalogue.write_text(json.dumps({"models": [{"name": "x"}]}), encoding="utf-8")
    code, _, error = download("sam")
    assert code == 2
    assert "cannot be read" in error
