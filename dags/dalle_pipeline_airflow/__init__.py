"""What the DAGs beside this package are made of. Imports Airflow and Python's own library alone."""

from __future__ import annotations

# Of the `pipeline` command that these DAGs belong to: the first task of a run refuses another one.
PIPELINE_VERSION = "0.1.0"
