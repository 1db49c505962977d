"""Finished maps in object storage: whole or absent there, copied once, readable in pieces, every fault a sentence."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import artifacts, publish, runner
from pipeline.artifacts import Manifest, write_manifest
from pipeline.cli import main
from pipeline.publish import Published
from stages.errors import ArtifactError, SettingError
from tests.toys import Toy, make_toy

SIDE = 1024


@dataclass
class Server:
    """An S3 server on loopback that notes what it is asked: method, path and bytes."""

    port: int = 0
    asked: list[tuple[str, str, str]] = field(default_factory=list)

    def writes(self) -> list[tuple[str, str]]:
        """What was written or removed since the last time."""
        found = [(method, path) for method, path, _ in self.asked if method in ("PUT", "DELETE", "POST")]
        self.asked.clear()
        return found


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    application, server = DomainDispatcherApplication(create_backend_app), Server()

    def noting(environ: dict[str, Any], start: Any) -> Any:
        server.asked.append((environ["REQUEST_METHOD"], environ["PATH_INFO"], environ.get("HTTP_RANGE", "")))
        return application(environ, start)

    listening = make_server("127.0.0.1", 0, noting, threaded=True)
    server.port = listening.server_port
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    yield server
    listening.shutdown()
    listening.server_close()
    thread.join()


@pytest.fixture
def server(running: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    settings = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{running.port}", "AWS_ACCESS_KEY_ID": "id", "NO_PROXY": "127.0.0.1",
        "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
        # Whatever account the machine's own files name.
        "AWS_CONFIG_FILE": str(tmp_path / "none"), "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
    }  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    running.asked.clear()
    return running


@pytest.fixture
def bucket(server: Server, request: pytest.FixtureRequest) -> str:
    """The URL of a new bucket."""
    name = f"b{abs(hash(request.node.nodeid))}"
    storage().mkdir(name)
    server.asked.clear()
    return f"s3://{name}"


def storage() -> Any:
    import fsspec

    return fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)


def values(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (SIDE, SIDE), dtype=np.uint8)


def write_map(data: Path, seed: int = 0, **texts: str) -> Path:
    """Write a map: a layer that does not compress, a folder of two files, and ``texts``."""
    import rasterio
    from affine import Affine

    folder = data / "map"
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    place = Affine(10.0, 0.0, 500_000.0, 0.0, -10.0, 5_400_000.0)
    with rasterio.open(
        folder / "classes.tif", "w", driver="COG", dtype="uint8", count=1, width=SIDE, height=SIDE, blocksize=256,
        crs="EPSG:32633", transform=place,
    ) as target:  # fmt: skip
        target.write(values(seed), 1)
    texts = {"pictures/a.txt": "a", "pictures/b.txt": "b", "report.html": "report", **texts}
    for name, text in texts.items():
        (folder / name.replace("__", ".")).write_text(text)
    return sign(folder)


def sign(folder: Path) -> Path:
    """Write the manifest of what lies in a folder."""
    nothing: dict[str, Any] = {}
    outputs = artifacts.outputs_of(folder)
    write_manifest(folder, Manifest(
        stage="export", artifact="map", key=str(outputs), basis="", config=nothing, config_outside_key=nothing,
        inputs=nothing, sources=nothing, code=nothing, versions=nothing, commit=None, seed=None, started="", seconds=0,
        peak_memory_mb=0, outputs=outputs,
    ))  # fmt: skip
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def stored(url: str) -> dict[str, bytes]:
    root, system = url.partition("://")[2] + "/", storage()
    return {path.removeprefix(root): system.cat_file(path) for path in system.find(root)}


# --- what readers see ------------------------------------------------------------------------------------------------


def test_a_map_arrives_whole_with_its_manifest_last(tmp_path: Path, server: Server, bucket: str) -> None:
    folder = write_map(tmp_path)
    done = publish.publish(tmp_path, f"{bucket}/maps/here")
    here = files_of(folder)
    assert done == Published(len(here), sum(map(len, here.values())))
    names = [path.removeprefix(f"/{bucket[5:]}/maps/here/") for method, path in server.writes() if method == "PUT"]
    kept = [name for name in names if name != "unfinished.json"]
    assert kept[-1] == "manifest.json"
    assert sorted(kept) == sorted(here)
    assert stored(f"{bucket}/maps/here") == here


def test_a_published_layer_is_read_in_pieces(
    tmp_path: Path, server: Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import rasterio

    folder = write_map(tmp_path)
    publish.publish(tmp_path, bucket + "/map")
    server.asked.clear()
    address = f"127.0.0.1:{server.port}"
    with (
        rasterio.Env(
            AWS_S3_ENDPOINT=address, AWS_HTTPS="NO", AWS_VIRTUAL_HOSTING="FALSE",
            GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR",
        ),
        rasterio.open(f"/vsis3/{bucket[5:]}/map/classes.tif") as layer,
    ):  # fmt: skip
        found = layer.read(1, window=((512, 768), (256, 512)))
        assert layer.overviews(1) == [2, 4]
    assert (found == values()[512:768, 256:512]).all()
    ranges = [text.removeprefix("bytes=").split("-") for method, _, text in server.asked if method == "GET"]
    assert all(len(ends) == 2 for ends in ranges)
    assert ranges
    # One block of 64 kB of a layer of 1.3 MB was asked for.
    assert sum(int(last) - int(first) + 1 for first, last in ranges) < (folder / "classes.tif").stat().st_size / 3


def test_publishing_again_copies_nothing(tmp_path: Path, server: Server, bucket: str) -> None:
    write_map(tmp_path)
    publish.publish(tmp_path, bucket + "/map")
    server.asked.clear()
    assert publish.publish(tmp_path, bucket + "/map") == Published(0, 0)
    assert len(server.asked) <= 4
    assert server.writes() == []


def test_only_what_changed_is_copied_and_what_is_gone_is_removed(tmp_path: Path, server: Server, bucket: str) -> None:
    folder = write_map(tmp_path, style__qml="red", **{"pictures/c.txt": "c"})
    publish.publish(tmp_path, bucket + "/map")
    storage().pipe_file(f"{bucket}/map/theirs.txt", b"not ours")
    (folder / "style.qml").unlink()
    (folder / "pictures" / "c.txt").unlink()
    (folder / "report.html").write_text("a new report")
    sign(folder)
    server.asked.clear()

    publish.publish(tmp_path, bucket + "/map")
    writes = [(method, path.removeprefix(f"/{bucket[5:]}/map/")) for method, path in server.writes()]
    manifest_gone = writes.index(("DELETE", "manifest.json"))
    put = [path for method, path in writes if method == "PUT" and path != "unfinished.json"]
    assert put == ["pictures/a.txt", "pictures/b.txt", "report.html", "manifest.json"]
    # Nothing is touched while a manifest says that the map is whole.
    assert all(path == "unfinished.json" for _, path in writes[:manifest_gone])
    assert stored(bucket + "/map") == {**files_of(folder), "theirs.txt": b"not ours"}


def test_a_file_that_was_changed_there_is_copied_again(tmp_path: Path, server: Server, bucket: str) -> None:
    folder = write_map(tmp_path)
    publish.publish(tmp_path, bucket + "/map")
    storage().pipe_file(f"{bucket}/map/report.html", b"half a rep")
    storage().rm_file(f"{bucket}/map/pictures/b.txt")
    assert publish.publish(tmp_path, bucket + "/map").files == 4
    assert stored(bucket + "/map") == files_of(folder)


@pytest.mark.parametrize("earlier", [False, True])
def test_a_publication_that_breaks_off_leaves_no_manifest_and_is_gone_on_with(
    tmp_path: Path, server: Server, bucket: str, monkeypatch: pytest.MonkeyPatch, earlier: bool
) -> None:
    import s3fs

    if earlier:
        write_map(tmp_path, seed=1, old__txt="of an earlier map")
        publish.publish(tmp_path, bucket + "/map")
        (tmp_path / "map" / "old.txt").unlink()
    folder = write_map(tmp_path, **{"pictures/a.txt": "another a", "report.html": "another report"})
    put = s3fs.S3FileSystem.put_file

    def broken(self: Any, source: str, target: str, **more: Any) -> None:
        if target.endswith("b.txt"):
            raise OSError("the line is dead")
        put(self, source, target, **more)

    with monkeypatch.context() as patch:
        patch.setattr(s3fs.S3FileSystem, "put_file", broken)
        with pytest.raises(
            ArtifactError, match=r"^Cannot publish to s3://.*: .*the line is dead.* The map in .* is whole"
        ):
            publish.publish(tmp_path, bucket + "/map")
    assert "manifest.json" not in stored(bucket + "/map")
    assert artifacts.read_manifest(folder) is not None
    server.asked.clear()
    publish.publish(tmp_path, bucket + "/map")
    names = [path.rpartition("/")[2] for method, path in server.writes() if method == "PUT"]
    # The layer was copied before the line broke.
    assert [name for name in names if name != "unfinished.json"] == ["a.txt", "b.txt", "report.html", "manifest.json"]
    assert stored(bucket + "/map") == files_of(folder)


def test_what_is_gone_is_removed_even_if_the_first_try_broke_off_before(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    folder = write_map(tmp_path, old__txt="of an earlier map")
    publish.publish(tmp_path, bucket + "/map")
    (folder / "old.txt").unlink()
    sign(folder)

    def broken(self: Any, path: str) -> None:
        raise OSError("the line is dead")

    with monkeypatch.context() as patch:
        patch.setattr(s3fs.S3FileSystem, "rm_file", broken)
        with pytest.raises(ArtifactError, match="the line is dead"):
            publish.publish(tmp_path, bucket + "/map")
    publish.publish(tmp_path, bucket + "/map")
    assert stored(bucket + "/map") == files_of(folder)


def test_a_copy_that_lost_bytes_is_told(tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    write_map(tmp_path)
    monkeypatch.setattr(
        s3fs.S3FileSystem,
        "put_file",
        lambda self, source, target: self.pipe_file(target, Path(source).read_bytes()[:-1]),
    )
    with pytest.raises(ArtifactError, match=r"of \d+ bytes of classes.tif arrived"):
        publish.publish(tmp_path, bucket + "/map")


# --- faults ----------------------------------------------------------------------------------------------------------


def refused(data: Path, to: str) -> str:
    with pytest.raises((ArtifactError, SettingError)) as caught:
        publish.publish(data, to)
    assert artifacts.read_manifest(data / "map") is not None
    return str(caught.value)


def test_a_missing_bucket_is_told_and_not_made(tmp_path: Path, server: Server) -> None:
    write_map(tmp_path)
    said = refused(tmp_path, "s3://nobody-has-made-it/map")
    assert "The specified bucket does not exist" in said
    assert "make the bucket, or correct publish.to" in said
    assert not storage().exists("nobody-has-made-it")


def test_refused_and_missing_credentials_are_told(tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from moto import settings

    write_map(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0)
        said = refused(tmp_path, bucket + "/map")
    assert "access is refused" in said
    assert "AWS_ACCESS_KEY_ID" in said
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "Unable to locate credentials" in refused(tmp_path, bucket + "/map")


def test_no_network_is_told(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    write_map(tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(publish, "TRIES", 1)
    said = refused(tmp_path, "s3://bucket/map")
    assert "cannot be reached or written" in said
    assert "AWS_ENDPOINT_URL" in said


def test_the_folder_of_something_else_is_not_touched(tmp_path: Path, bucket: str) -> None:
    write_map(tmp_path)
    for other in (b'{"name": "an app"}', b'{"artifact": "tiles", "outputs": {}}', b"{"):
        storage().pipe_file(f"{bucket}/app/manifest.json", other)
        assert "holds the manifest.json of something else" in refused(tmp_path, bucket + "/app")
        assert stored(bucket + "/app") == {"manifest.json": other}


def test_a_kind_of_storage_that_is_not_there_is_told(tmp_path: Path) -> None:
    write_map(tmp_path)
    assert refused(tmp_path, "nothing://bucket/map").startswith("publish.to is nothing://bucket/map: ")


def test_without_a_whole_map_nothing_is_published(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"^There is no map to publish \(there is none yet\); `make export`"):
        publish.publish(tmp_path, f"file://{tmp_path}/out")
    folder = write_map(tmp_path)
    (folder / "report.html").write_text("shorter")
    with pytest.raises(ArtifactError, match=r"report\.html changed"):
        publish.publish(tmp_path, f"file://{tmp_path}/out")
    assert not (tmp_path / "out").exists()


# --- as a setting ----------------------------------------------------------------------------------------------------


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return make_toy(tmp_path)


@pytest.mark.parametrize(
    ("to", "words"),
    [
        ("maps/here", "publish.to: maps/here is no URL of a folder"),
        ("file://maps/here", None),
        ("s3://id:secret@bucket/map", "publish.to: a URL must hold no password"),
        ("s3:///map", "publish.to: s3:///map is no URL"),
        (3, "publish.to is 3; expected a text"),
    ],
)
def test_wrong_destinations_are_told(toy: Toy, to: Any, words: str | None) -> None:
    toy.config(publish={"to": to})
    if words is None:
        toy.area()
        return
    with pytest.raises(SettingError) as caught:
        toy.area()
    assert str(caught.value).startswith(words)
    assert "secret" not in str(caught.value).replace("AWS_SECRET_ACCESS_KEY", "")


def test_a_run_publishes_its_map_and_another_destination_makes_nothing_stale(
    toy: Toy, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = toy.root / "first", toy.root / "second" / "deep"
    toy.config(publish={"to": f"file://{first}"})
    runner.run(toy.area(), "classify")
    assert not first.exists()
    runner.run(toy.area())
    assert files_of(first) == files_of(toy.data / "map")

    toy.config(publish={"to": f"file://{second}"})
    assert {step.state for step in runner.survey(toy.area())} == {"fresh"}
    assert main(["--root", str(toy.root), "publish", "--area", "a"], toy.stages) == 0
    assert f"published 2 files (0.0 MB) to file://{second}" in capsys.readouterr().out
    assert files_of(second) == files_of(toy.data / "map")
    # A new map replaces the old one, which is published as it stands until there is one.
    toy.config(tile={"pad": 2})
    assert main(["--root", str(toy.root), "publish", "--area", "a"], toy.stages) == 0
    told = capsys.readouterr().out
    assert "the map is stale (" in told
    assert "published already" in told
    runner.run(toy.area())
    assert files_of(second) == files_of(toy.data / "map") != files_of(first)


def test_the_command_says_what_is_missing(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", str(toy.root), "publish", "--area", "a"], toy.stages) == 2
    assert "publish.to is not set in area a" in capsys.readouterr().err
