"""Serves a replica until its standard input closes: `serve_replica.py SECTION,… [CHANGED…]`.

Run by the tests of the DAGs in the pipeline's environment, which is not Airflow's.
"""

from __future__ import annotations

import sys

from pipeline.demo.replica.config import ReplicaConfig
from pipeline.demo.replica.server import Replica

with Replica(ReplicaConfig(sections=tuple(sys.argv[1].split(",")), size=32)) as replica:
    for path in sys.argv[2:]:
        replica.change(replica.url + path)
    sys.stdout.write(replica.url.split("/")[2] + "\n")
    sys.stdout.flush()
    sys.stdin.read()
