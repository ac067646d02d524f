"""The server of `bench/scrape.py`: nginx with a config of its own and a pool of real PNGs."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

NUM_RANKS = 32
_CONFIG = """
worker_processes auto;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
daemon off;
events {{ worker_connections 16384; }}
worker_rlimit_nofile 20000;
http {{
  {log}
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  types {{ image/png png; }}
  sendfile on;
  tcp_nopush on;
  keepalive_requests 1000000000;
  open_file_cache max=1000;
  server {{
    {listen}
    root {folder};
    location = /status {{ stub_status; }}
    location ~ "^/(?<pool>[a-z0-9]+)/samples/.*_(?<rank>[0-9]+)\\.png$" {{
      alias {folder}/$pool/$rank.png;
    }}
  }}
}}
"""


def make_pool(folder: Path, size: int) -> int:
    """Write 32 PNGs of noise, one a rank, of about `size` bytes; gives their mean size in bytes."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    side = max(4, round((size / 3) ** 0.5))
    total = 0
    for rank in range(NUM_RANKS):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).save(buffer, "PNG")
        total += (folder / f"{rank}.png").write_bytes(buffer.getvalue())
    return total // NUM_RANKS


class Nginx:
    """Serves `<pool>/samples/…_<rank>.png` from `folder/<pool>/<rank>.png`, whatever the caption."""

    def __init__(self, folder: Path, *, num_addresses: int = 1, log: bool = False) -> None:
        """Listens on 127.0.0.1 and the addresses after it; with `log`, `requests.log` has times and hosts."""
        self.folder = folder
        self.num_addresses = num_addresses
        self.log = log
        self.port = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @contextlib.contextmanager
    def serving(self) -> Iterator[Nginx]:
        """Run it on a free port until the end of the block."""
        self.port = _free_port()
        config = self.folder / "nginx.conf"
        config.write_text(self._config())
        command = [shutil.which("nginx") or "/usr/sbin/nginx", "-p", self.folder, "-c", config]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            self._wait(process)
            yield self
        finally:
            process.terminate()
            process.wait()

    def _config(self) -> str:
        ports = [
            f"listen 127.0.0.{n + 1}:{self.port} backlog=4096;" for n in range(self.num_addresses)
        ]
        to = f"{self.folder}/requests.log pace buffer=64k flush=1s"
        log = f"log_format pace '$msec $request_time $host'; access_log {to};"
        return _CONFIG.format(
            folder=self.folder, listen=" ".join(ports), log=log if self.log else "access_log off;"
        )

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        for _ in range(200):
            with contextlib.suppress(OSError):
                self.requests()
                return
            if process.poll() is not None:
                break
            time.sleep(0.05)
        raise SystemExit(f"nginx did not start: {(self.folder / 'error.log').read_text()}")

    def requests(self) -> int:
        """Requests served so far, this one included."""
        with urllib.request.urlopen(f"{self.url}/status", timeout=5) as answer:
            found = re.search(rb"\n *\d+ +\d+ +(\d+)", answer.read())
        assert found is not None, "stub_status has another form"
        return int(found[1])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
