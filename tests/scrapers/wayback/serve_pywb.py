"""Serves records by pywb itself; run by pywb's own interpreter, so it imports nothing of this package.

    python serve_pywb.py

Each line of standard input is an archive as JSON: a folder, records, and WARCs that are to be lost. A fork,
since importing pywb takes longer than the rest, writes the records into WARCs by warcio, has `wb-manager`
index them, deletes the WARCs that are to be lost, and serves the collection on a free port of 127.0.0.1 until
it is terminated. Prints its port and process; ends with all forks when its standard input does.
"""

from gevent import monkey

monkey.patch_all()

import base64
import io
import json
import os
import signal
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


def serve(lost, out, parent):
    for name in lost:
        Path("collections", COLLECTION, "archive", name).unlink()
    server = WSGIServer(("127.0.0.1", 0), FrontEndApp(config_file=None), log=None)
    server.start()
    os.write(out, b"%d %d\n" % (server.server_port, os.getpid()))
    while os.getppid() == parent:
        gevent.sleep(0.5)


def make_archive(wanted, parent):
    """Serve an archive in this process, a fork; what pywb prints goes to its folder."""
    os.chdir(wanted["folder"])
    out, log = os.dup(1), os.open("log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    manage(["init", COLLECTION])
    names = write_warcs(wanted["records"])
    if names:
        manage(["add", COLLECTION, *names])
    serve(wanted["lost"], out, parent)


def main():
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # Forks that ended are not waited for.
    parent = os.getpid()
    for line in sys.stdin:
        if not os.fork():
            make_archive(json.loads(line), parent)
            os._exit(0)


main()
