"""Fashion-MNIST: found, got, checked, and loaded in the order that the seed says."""

import functools
import gzip
import http.server
import shutil
import threading

import pytest
import synthetic
import torch

from cnnext import data
from cnnext.data import fetch, files
from cnnext.data.fashion_mnist import parse_idx

IMAGES = "train-images-idx3-ubyte.gz"
EPOCH_0, EPOCH_1 = [44, 129, 295, 186, 7, 119, 245, 229], [165, 4, 278, 129, 203, 123, 119, 86]


@pytest.fixture(autouse=True)
def nothing_here(monkeypatch, tmp_path):
    """No data on this machine, no way to get any, and the hashes of the synthetic set."""
    monkeypatch.delenv("CNNEXT_DATA", raising=False)
    monkeypatch.setenv("CNNEXT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "SYSTEM_FOLDER", tmp_path / "system")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(fetch, "URLS", ("http://127.0.0.1:9/",))
    for name, value in synthetic.hashes().items():
        monkeypatch.setitem(files.SHA256, name, value)


@pytest.fixture
def folder(tmp_path):
    synthetic.write(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def site(folder, monkeypatch):
    """An address that serves the files, in the place of the authors'."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setattr(fetch, "URLS", ("http://127.0.0.1:9/", f"http://127.0.0.1:{server.server_port}/"))
    yield folder
    server.shutdown()
    thread.join()
    server.server_close()


def command(tmp_path, name, script):
    file = tmp_path / "bin" / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
    file.chmod(0o755)


class TestFinding:
    def test_order_of_the_folders(self, tmp_path, monkeypatch):
        places = [tmp_path / name for name in ("argument", "environment", "cache/fashion-mnist", "system")]
        for place in reversed(places):  # each that appears goes before the ones that were there
            synthetic.write(place)
            if place.name == "environment":
                monkeypatch.setenv("CNNEXT_DATA", str(place))
            root = place if place.name == "argument" else None
            assert data.FashionMNIST(root, download=False).folder == place

    def test_folder_with_the_wanted_half_is_enough(self, folder):
        for file in folder.glob("train-*"):
            file.unlink()
        assert len(data.FashionMNIST(folder, train=False, download=False)) == synthetic.TEST
        with pytest.raises(data.DataError):
            data.FashionMNIST(folder, train=True, download=False)

    def test_nowhere_and_not_downloaded_names_three_ways_out(self, tmp_path):
        with pytest.raises(data.DataError) as error:
            data.FashionMNIST(tmp_path / "empty", download=False)
        text = str(error.value)
        assert "1. " in text and "apt install dataset-fashion-mnist" in text
        assert "2. " in text and str(tmp_path / "empty") in text and IMAGES in text
        assert "3. " in text and "CNNEXT_DATA" in text and "--data" in text
        assert not (tmp_path / "empty").exists()


class TestDamage:
    def assert_refused(self, folder, packed):
        (folder / IMAGES).write_bytes(packed)
        with pytest.raises(data.DataError) as error:
            data.FashionMNIST(folder)
        text = str(error.value)
        assert str(folder / IMAGES) in text and "truncated or altered" in text
        assert files.SHA256[IMAGES] in text and "found: " in text and "Remove that file" in text

    def test_truncated(self, folder):
        packed = (folder / IMAGES).read_bytes()
        for length in (len(packed) // 2, len(packed) - 1, 1, 0):
            self.assert_refused(folder, packed[:length])

    def test_one_bit_turned(self, folder):
        packed = bytearray((folder / IMAGES).read_bytes())
        packed[len(packed) // 3] ^= 1
        self.assert_refused(folder, bytes(packed))

    def test_another_file_in_its_place(self, folder):
        content = bytearray(synthetic.contents()[IMAGES])
        content[1000] ^= 1
        self.assert_refused(folder, gzip.compress(bytes(content)))
        self.assert_refused(folder, b"<html>not found</html>")

    @pytest.mark.parametrize(
        "content",
        [b"", b"\0\0\x08", b"\0\0\x09\x01\0\0\0\x01x", b"\0\0\x08\0x", b"\0\0\x08\x01\0\0\0\x02x", b"\0\0\x08\x03\0"],
    )
    def test_parse_idx_refuses_what_is_none(self, content):
        with pytest.raises(data.DataError, match="some file"):
            parse_idx(content, "some file")

    def test_parse_idx(self):
        array = torch.arange(24, dtype=torch.uint8).view(2, 3, 4)
        assert torch.equal(parse_idx(synthetic.idx(array), "it"), array)


class TestGetting:
    def test_from_debian_without_root(self, tmp_path, folder):
        """apt-get fails until it has updated its lists; its package is unpacked, nothing is left behind."""
        command(
            tmp_path,
            "apt-get",
            f'case "$2" in update) touch {tmp_path}/updated; exit 100;;'
            f" download) test -f {tmp_path}/updated || {{ echo E: no package; exit 100; }};"
            " touch dataset-fashion-mnist_0_all.deb;; esac",
        )
        command(
            tmp_path,
            "dpkg",
            f'mkdir -p "$3{fetch.SYSTEM_FOLDER}" && cp {folder}/*.gz "$3{fetch.SYSTEM_FOLDER}"',
        )
        data_set = data.FashionMNIST()
        assert len(data_set) == synthetic.TRAIN
        assert data_set.folder == tmp_path / "cache/fashion-mnist"
        assert sorted(file.name for file in data_set.folder.iterdir()) == sorted(files.SHA256)

    def test_over_the_net_where_there_is_no_apt(self, site, tmp_path):
        data_set = data.FashionMNIST(tmp_path / "mine")
        assert data_set.folder == tmp_path / "mine"
        assert sorted(file.name for file in data_set.folder.iterdir()) == sorted(files.SHA256)
        shutil.rmtree(site)  # a second time it is there
        assert torch.equal(data.FashionMNIST(tmp_path / "mine").images, data_set.images)

    def test_what_is_there_is_left_alone(self, site, tmp_path):
        place = tmp_path / "mine"
        place.mkdir()
        shutil.copy(site / IMAGES, place)
        before = (place / IMAGES).stat()
        data.FashionMNIST(place)
        assert (place / IMAGES).stat().st_mtime_ns == before.st_mtime_ns

    def test_altered_on_the_way_leaves_nothing(self, site, tmp_path):
        for file in site.iterdir():
            file.write_bytes(file.read_bytes()[:-9])
        with pytest.raises(data.DataError) as error:
            data.FashionMNIST(tmp_path / "mine")
        assert "truncated or altered" in str(error.value) and "3. " in str(error.value)
        assert not list((tmp_path / "mine").iterdir())

    def test_no_way_at_all(self, tmp_path):
        with pytest.raises(data.DataError) as error:
            data.FashionMNIST()
        text = str(error.value)
        assert "apt-get: not on this machine" in text and "http://127.0.0.1:9/" in text
        assert all(f"{way}. " in text for way in (1, 2, 3))

    def test_unwritable_cache(self, tmp_path, monkeypatch):
        (tmp_path / "file").write_text("in the way")
        monkeypatch.setenv("CNNEXT_CACHE", str(tmp_path / "file"))
        with pytest.raises(data.DataError, match=r"file/fashion-mnist.* cannot be written.*\n.*CNNEXT_CACHE"):
            data.FashionMNIST()


class TestLoader:
    @pytest.fixture
    def data_set(self, folder):
        return data.FashionMNIST(folder)

    def test_tensors(self, data_set):
        content = synthetic.contents()[IMAGES]
        assert data_set.images.shape == (synthetic.TRAIN, 1, 28, 28) and data_set.images.dtype == torch.uint8
        assert data_set.images.flatten().tolist() == list(content[16:])
        assert data_set.targets.dtype == torch.int64
        image, label = data_set[3]
        assert torch.equal(image, data_set.images[3].float() / 255) and label == data_set.targets[3]
        with pytest.raises(IndexError):
            data_set[len(data_set)]

    def test_every_image_once_and_a_ragged_end(self, data_set):
        loader = data_set.loader(batch_size=128)
        sizes = [len(targets) for _, targets in loader]
        assert sizes == [128, 128, 64] and len(loader) == 3
        images = torch.cat([images for images, _ in loader])
        assert torch.equal(images.flatten(1).sum(1).sort()[0], (data_set.images / 255).flatten(1).sum(1).sort()[0])

    def test_order_depends_on_seed_and_epoch_alone(self, data_set):
        loader, same = data_set.loader(seed=3), data_set.loader(seed=3, batch_size=7)
        torch.manual_seed(99)
        first, second = (torch.cat([targets for _, targets in loader]) for _ in range(2))
        torch.manual_seed(98)
        assert torch.equal(torch.cat([targets for _, targets in same]), first)
        assert not torch.equal(first, second)
        same.epoch = 1
        assert torch.equal(torch.cat([targets for _, targets in same]), second)
        orders = {tuple(data_set.loader(seed=s).order(e).tolist()) for s in range(6) for e in range(6)}
        assert len(orders) == 36

    def test_order_is_that_of_every_machine(self, data_set):
        assert data_set.loader(seed=0).order(0)[:8].tolist() == EPOCH_0
        assert data_set.loader(seed=0).order(1)[:8].tolist() == EPOCH_1

    def test_the_test_set_is_not_shuffled(self, folder):
        loader = data.FashionMNIST(folder, train=False).loader()
        assert torch.equal(loader.order(0), torch.arange(synthetic.TEST))

    @pytest.mark.parametrize(("resize", "size"), [(64, (64, 64)), ((20, 31), (20, 31))])
    def test_resize_is_done_as_a_minibatch_is_taken(self, folder, resize, size):
        data_set = data.FashionMNIST(folder, resize=resize)
        images, _ = next(iter(data_set.loader(shuffle=False)))
        expected = torch.nn.functional.interpolate(
            data_set.images[:128].float() / 255, size=size, mode="bilinear", antialias=True
        )
        assert torch.equal(images, expected)
        assert torch.equal(data_set[5][0], expected[5])
        assert data_set.images.shape[2:] == (28, 28) and data_set.images.dtype == torch.uint8

    def test_bad_arguments(self, folder):
        for resize in (0, (28, -1)):
            with pytest.raises(ValueError, match="resize must be positive"):
                data.FashionMNIST(folder, resize=resize)
        for resize in (2.5, "96", (1, 2, 3), True):
            with pytest.raises(TypeError, match="resize must be an int or a pair"):
                data.FashionMNIST(folder, resize=resize)
        for batch_size in (0, -1, 2.0):
            with pytest.raises(ValueError, match="batch_size must be a positive int"):
                data.FashionMNIST(folder).loader(batch_size)

    def test_text_labels(self):
        assert data.text_labels(torch.tensor([0, 9])) == ["t-shirt", "ankle boot"]
        assert len(data.TEXT_LABELS) == 10


@pytest.mark.slow
def test_the_real_data(monkeypatch):
    monkeypatch.undo()  # this machine's folders, tools and hashes again
    try:
        train, test = data.FashionMNIST(train=True), data.FashionMNIST(train=False)
    except data.DataError as error:
        pytest.skip(f"Fashion-MNIST is not on this machine and cannot be got: {error}")
    assert (len(train), len(test)) == (60000, 10000)
    assert train.targets.bincount().tolist() == [6000] * 10
    assert test.targets.bincount().tolist() == [1000] * 10
    assert [len(targets) for _, targets in train.loader()] == [128] * 468 + [96]
