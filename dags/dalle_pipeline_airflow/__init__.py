"""The parts of the DAGs beside this package. Imports only Airflow and the standard library."""

from __future__ import annotations

# The version of the `pipeline` command that these DAGs need: the first task of a run refuses others.
PIPELINE_VERSION = "0.1.0"
