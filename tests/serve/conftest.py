"""A server over a workspace with a tiny model, in a thread."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from pipeline.core.workspace import Workspace
from pipeline.serve.config import ServeConfig
from pipeline.serve.server import BackgroundServer
from tests.helpers.generate import workspace as workspace  # a fixture
from tests.helpers.generate import write_models


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A response, read completely."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, kw_only=True)
class Served:
    """A running server and its parts."""

    url: str
    server: BackgroundServer

    def request(
        self,
        method: str,
        path: str,
        body: bytes | Mapping[str, Any] | None = None,
        **headers: str,
    ) -> Answer:
        """Send a request; `headers` are given with `_` for `-`."""
        data = json.dumps(body).encode() if isinstance(body, Mapping) else body
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=60)
        with contextlib.closing(connection):
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body=data, headers=given)
            response = connection.getresponse()
            lower = {name.lower(): value for name, value in response.getheaders()}
            return Answer(status=response.status, headers=lower, body=response.read())

    def get(self, path: str, **headers: str) -> Answer:
        return self.request("GET", path, None, **headers)

    def page(self, path: str) -> Answer:
        """Get a page as a browser does."""
        return self.get(path, Accept="text/html,*/*;q=0.8")


Serve = Callable[..., Served]


@contextlib.contextmanager
def serving(workspace: Path, **options: Any) -> Iterator[Served]:
    """A running server over the workspace at a path; keyword arguments are further options."""
    options = {"port": 0, "device": "cpu", "threads": 1, **options}
    server = BackgroundServer(ServeConfig(workspace=workspace, **options))
    with server as url:
        yield Served(url=url, server=server)


@pytest.fixture
def serve(workspace: Workspace) -> Iterator[Serve]:
    """Start a server; keyword arguments are options."""
    with contextlib.ExitStack() as stack:

        def start(**options: Any) -> Served:
            return stack.enter_context(serving(**{"workspace": workspace.root, **options}))

        yield start


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The same workspace, for tests that don't change it."""
    return write_models(tmp_path_factory.mktemp("models") / "workspace")
