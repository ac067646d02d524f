"""Serves records by pywb itself; run by pywb's own interpreter, so it imports nothing of this package.

    python serve_pywb.py FOLDER < records.json

Writes the records into WARCs by warcio, has `wb-manager` index them, deletes the WARCs that are to be lost,
and serves the collection on a free port of 127.0.0.1. Prints the port; ends when its standard input does.
"""

from gevent import monkey

monkey.patch_all()

import base64
import io
import json
import os
import sys
from pathlib import Path

import gevent
from gevent.pywsgi import WSGIServer
from pywb.apps.frontendapp import FrontEndApp
from pywb.manager.manager import main as manage
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

COLLECTION = "coll"


def write_record(writer, record, digests):
    """Add one response, or a revisit of the response named by `revisits`, its URL and date."""
    url, date = record["url"], record["date"]
    headers = StatusAndHeaders(record["status"], record["headers"], protocol="HTTP/1.1")
    about = {"WARC-Date": date}
    if record["revisits"] is not None:
        first = tuple(record["revisits"])
        made = writer.create_revisit_record(
            url, digests[first], *first, http_headers=headers, warc_headers_dict=about
        )
    else:
        body = io.BytesIO(base64.b64decode(record["body"]))
        made = writer.create_warc_record(
            url, "response", payload=body, http_headers=headers, warc_headers_dict=about
        )
    writer.write_record(made)
    digests[url, date] = made.rec_headers.get_header("WARC-Payload-Digest")


def write_warcs(records):
    """Write each WARC that the records name; gives their paths."""
    names = sorted({record["warc"] for record in records})
    digests = {}
    for name in names:
        with Path(name).open("wb") as file:
            writer = WARCWriter(file, gzip=True)
            for record in records:
                if record["warc"] == name:
                    write_record(writer, record, digests)
    return names


def serve(lost, out):
    for name in lost:
        Path("collections", COLLECTION, "archive", name).unlink()
    server = WSGIServer(("127.0.0.1", 0), FrontEndApp(config_file=None), log=None)
    server.start()
    print(server.server_port, file=out, flush=True)
    # A pipe is read by a thread of its own: gevent's loop goes on.
    gevent.get_hub().threadpool.apply(sys.stdin.buffer.read)


def main():
    folder, wanted = sys.argv[1], json.loads(sys.stdin.readline())
    os.chdir(folder)
    out, sys.stdout = sys.stdout, sys.stderr  # What pywb prints is no port.
    manage(["init", COLLECTION])
    names = write_warcs(wanted["records"])
    if names:
        manage(["add", COLLECTION, *names])
    serve(wanted["lost"], out)


main()
