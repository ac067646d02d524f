"""A real server that speaks S3, for the tests: moto's, on a free port of 127.0.0.1."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from moto.server import ThreadedMotoServer

BUCKET = "images"


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of the server."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(
    s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """`s3://…` of an empty prefix; keys and endpoint are in the environment, as users have them."""
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AWS_ENDPOINT_URL", s3_server),
    ):
        monkeypatch.setenv(name, value)
    store = fsspec.filesystem("s3")
    if not store.exists(BUCKET):
        store.mkdir(BUCKET)
    return f"s3://{BUCKET}/{tmp_path_factory.mktemp('prefix').name}"


@pytest.fixture(params=["s3", "memory", "file"])
def address(request: pytest.FixtureRequest, bucket: str, tmp_path: Path) -> str:
    places = {"s3": bucket, "memory": f"memory://{tmp_path.name}", "file": f"file://{tmp_path}/out"}
    return places[request.param]


def stored(address: str) -> dict[str, bytes]:
    """Every file below an address."""
    store, root = fsspec.core.url_to_fs(address)
    return {name: store.cat_file(f"{root}/{name}") for name in stored_names(address)}


def stored_names(address: str) -> list[str]:
    """The paths of the files below an address, which may be gone when they are read."""
    store, root = fsspec.core.url_to_fs(address)
    store.invalidate_cache()
    # An address at which the first object appears while it is listed is given as if it were one.
    return [path[len(root) + 1 :] for path in sorted(store.find(root)) if path != root]
