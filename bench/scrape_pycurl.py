"""The bare client that `bench/scrape.py` compares with: pycurl's multi interface, hash, append.

    python bench/scrape_pycurl.py URLS.txt OUT CONNECTIONS

No retries, no limits, no ledger, no sync: what is left when a crawler's duties are taken away.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import pycurl


def main() -> None:
    """Fetch every URL of a list over a fixed number of handles into one file, with its hashes."""
    urls = iter(Path(sys.argv[1]).read_text().split())
    out, connections = Path(sys.argv[2]), int(sys.argv[3])
    multi: Any = pycurl.CurlMulti()
    multi.setopt(pycurl.M_MAX_HOST_CONNECTIONS, connections)
    free = []
    for _ in range(connections):
        handle = pycurl.Curl()
        handle.setopt(pycurl.NOSIGNAL, 1)
        free.append(handle)
    running: dict[Any, list[bytes]] = {}
    with out.open("wb", buffering=2**20) as file, out.with_suffix(".hashes").open("w") as hashes:

        def begin(handle: Any) -> bool:
            url = next(urls, None)
            if url is None:
                return False
            pieces: list[bytes] = []
            handle.setopt(pycurl.URL, url)
            handle.setopt(pycurl.WRITEFUNCTION, pieces.append)
            running[handle] = pieces
            multi.add_handle(handle)
            return True

        def end(handle: Any) -> None:
            body = b"".join(running.pop(handle))
            multi.remove_handle(handle)
            assert handle.getinfo(pycurl.RESPONSE_CODE) == 200
            file.write(body)
            hashes.write(hashlib.sha256(body).hexdigest() + "\n")

        for handle in free:
            begin(handle)
        while running:
            multi.perform()
            _, done, failed = multi.info_read()
            assert not failed, failed
            for handle in done:
                end(handle)
                begin(handle)
            if not done:
                multi.select(1.0)


if __name__ == "__main__":
    main()
