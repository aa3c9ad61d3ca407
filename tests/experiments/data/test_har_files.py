import zipfile
from http.server import BaseHTTPRequestHandler

import pytest
import torch
from scenarios.datasets import NAME, members, write_folder, write_zip, write_zip_in_zip

from reflow_lightning.experiments.data.har_files import URL, download, open_reader, parse, read_split

SIGNAL = "train/Inertial Signals/body_gyro_z_train.txt"
SERVED_NAME = URL.rpartition("/")[2]


def test_signals_activities_and_subjects(tmp_path):
    read = open_reader(write_folder(tmp_path, members(train=60, test=24)))
    windows, activities, subjects = read_split(read, "train")
    assert windows.shape == (60, 128, 9)
    assert windows.dtype == torch.float32
    assert windows.mean((0, 1)).tolist() == pytest.approx(range(1, 10), abs=0.1)  # the channels in their order
    assert activities.tolist() == [1 + i % 6 for i in range(60)]
    assert subjects.tolist() == [1 + i % 4 for i in range(60)]
    assert len(read_split(read, "test")[0]) == 24


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize(
    ("write", "name"),
    [
        (lambda path, files: write_folder(path.parent, files) / NAME, NAME),
        (write_zip, f"{NAME}.zip"),
        (lambda path, files: write_zip(path, files, zipfile.ZIP_LZMA), f"{NAME}.zip"),
        (write_zip_in_zip, SERVED_NAME),
    ],
    ids=["folder", "zip", "lzma", "zip-in-zip"],
)
def test_every_form_gives_the_same(write, name, inside, tmp_path):
    files = members(train=6, test=6)
    path = write(tmp_path / name, files)
    read = open_reader(tmp_path if inside else path)
    assert all(read(member) == content.encode() for member, content in files.items())


def test_other_archives_beside_it_do_not_matter(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("other", "")
    with pytest.raises(FileNotFoundError, match="no UCI HAR data in"):
        open_reader(tmp_path)
    write_zip(tmp_path / f"{NAME}.zip", members(6, 6))
    assert open_reader(tmp_path)("train/y_train.txt")


def test_nothing_there_is_an_error_with_a_remedy(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=rf"no UCI HAR data in .*: put the archive of https.* there, .*'{NAME}'"
    ):
        open_reader(tmp_path)


def test_a_missing_member_is_named(tmp_path):
    files = members(6, 6)
    del files[SIGNAL]
    with pytest.raises(FileNotFoundError, match=f"{SIGNAL} is missing"):
        read_split(open_reader(write_folder(tmp_path / "folder", files)), "train")
    with pytest.raises(ValueError, match=f"lacks {NAME}/{SIGNAL}"):
        read_split(open_reader(write_zip(tmp_path / f"{NAME}.zip", files)), "train")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_member_is_named(compression, tmp_path):
    path = write_zip(tmp_path / f"{NAME}.zip", members(6, 6), compression)
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(f"{NAME}/{SIGNAL}")
    content = bytearray(path.read_bytes())
    start = info.header_offset + 30 + len(info.filename) + info.compress_size // 2
    content[start : start + 40] = bytes(255 - byte for byte in content[start : start + 40])
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"is damaged at {SIGNAL} \("):
        read_split(open_reader(tmp_path), "train")


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>"])
def test_what_is_no_zip_archive_is_refused(content, tmp_path):
    (tmp_path / f"{NAME}.zip").write_bytes(content)
    with pytest.raises(ValueError, match="is no zip archive, or a damaged one"):
        open_reader(tmp_path)


def test_a_truncated_archive_is_refused(tmp_path):
    path = write_zip_in_zip(tmp_path / SERVED_NAME, members(6, 6))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match="is no zip archive, or a damaged one"):
        open_reader(tmp_path)


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        (b"1 2 x", "signal.txt holds something that is no number"),
        (b"1 2 \xff", "signal.txt holds something that is no number"),
        (b"1 2 nan 4", "signal.txt holds 4 values, not rows of 2 finite ones"),
        (b"1 2 inf 4", "signal.txt holds 4 values, not rows of 2 finite ones"),
        (b"1 2 3", "signal.txt holds 3 values, not rows of 2 finite ones"),
        (b"", "signal.txt holds 0 values, not rows of 2 finite ones"),
    ],
)
def test_text_that_is_no_rows_of_numbers(content, answer):
    with pytest.raises(ValueError, match=answer):
        parse(content, "signal.txt", columns=2)


def test_files_of_different_length(tmp_path):
    files = members(6, 6)
    files[SIGNAL] = files[SIGNAL].partition("\n")[2]
    with pytest.raises(ValueError, match=r"the train files have different numbers of rows \(\[5, 6\]\)"):
        read_split(open_reader(write_folder(tmp_path, files)), "train")


def test_downloaded_it_can_be_read(serve, tmp_path):
    files = members(6, 6)
    archive = write_zip_in_zip(tmp_path / "server" / "har.zip", files)
    download(tmp_path / "data", f"{serve(archive.parent)}/har.zip")
    assert [path.name for path in (tmp_path / "data").iterdir()] == [f"{NAME}.zip"]
    assert open_reader(tmp_path / "data")(SIGNAL) == files[SIGNAL].encode()


def test_half_a_download_leaves_nothing(serve, tmp_path):
    archive = write_zip(tmp_path / "server" / "har.zip", members(6, 6))
    archive.write_bytes(archive.read_bytes()[:5000])
    for name in ("har.zip", "none.zip"):
        with pytest.raises(RuntimeError, match=r"could not download the UCI HAR data \(.*\): put the archive of https"):
            download(tmp_path / "data", f"{serve(archive.parent)}/{name}")
        assert not list((tmp_path / "data").iterdir())


def test_a_broken_connection_leaves_nothing(serve, tmp_path):
    class Breaking(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def __init__(self, *arguments, directory):
            super().__init__(*arguments)

        def do_GET(self):
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"ff\r\nhalf a chunk")
            self.close_connection = True

        def log_message(self, *arguments):
            pass

    with pytest.raises(RuntimeError, match="could not download the UCI HAR data"):
        download(tmp_path / "data", f"{serve(tmp_path, Breaking)}/har.zip")
    assert not list((tmp_path / "data").iterdir())


@pytest.mark.data
def test_the_official_split(real_data):
    read = open_reader(real_data)
    train, test = (read_split(read, split) for split in ("train", "test"))
    assert (train[0].shape, test[0].shape) == ((7352, 128, 9), (2947, 128, 9))
    assert set(train[1].tolist()) == set(test[1].tolist()) == {1, 2, 3, 4, 5, 6}
    assert not set(train[2].tolist()) & set(test[2].tolist())
