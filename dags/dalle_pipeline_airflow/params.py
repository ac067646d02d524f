"""The params of the DAGs: the choices of a run. None of them names a program."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.sdk import Param

# The names in the built-in catalogue, for the form; the page may have others.
SECTIONS: tuple[str, ...] = (
    "material",
    "multiple_copies",
    "relative_positions",
    "stacking_snap",
    "multiple_attributes",
    "camera_angles",
    "three_d_views",
    "cross_sections",
    "macro_photos",
    "location_and_setting",
    "unusual_media",
    "animal_concept_transfer",
    "product_design",
    "animal_chimeras",
    "emojis",
    "anthropomorphism",
    "text_rendering",
    "shape",
    "female_fashion_design",
    "living_room_design",
    "bedroom_design",
    "im2im_animal",
    "im2im_object",
    "male_fashion_design",
    "rotating_head",
    "rotating_mirror",
    "countries",
    "neighborhood",
    "landmarks",
    "timelines",
    "rpm",
    "clip",
)

COMMON: Mapping[str, Param] = {
    "workspace": Param(
        None,
        type=["null", "string"],
        description="The dataset's folder as an absolute path, if not the workers' default.",
    ),
    "config": Param(
        None,
        type=["null", "string"],
        description="A TOML file with the options of the stages, if not the workers' default.",
    ),
}

REFRESH: Mapping[str, Param] = {
    **COMMON,
    "source": Param(
        "dalleblog", type="string", pattern="^[a-z][a-z0-9_]*$", description="The source."
    ),
    "sections": Param(
        [],
        type="array",
        items={"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9_.-]*$"},
        examples=list(SECTIONS),
        description="Only these sections; all if empty.",
    ),
    "limit": Param(
        None,
        type=["null", "integer"],
        minimum=1,
        description="Maximum number of captions per part.",
    ),
    "rate": Param(
        None,
        type=["null", "number"],
        exclusiveMinimum=0,
        description="Maximum requests per second.",
    ),
    "parts": Param(
        None,
        type=["null", "integer"],
        minimum=1,
        maximum=100,
        description="Number of parts of the scrape (4).",
    ),
    "mode": Param(
        None,
        type=["null", "string"],
        enum=[None, "refresh", "update", "continue"],
        description="Check everything (refresh), fetch what is new (update) or what is missing (continue).",
    ),
    "min_good_share": Param(
        None,
        type=["null", "number"],
        minimum=0,
        maximum=1,
        description="Alert if a smaller share of the fetches succeeded (0.95).",
    ),
    "max_different_share": Param(
        None,
        type=["null", "number"],
        minimum=0,
        description="Alert if a larger share of the data is new, changed or gone (0.10).",
    ),
    "max_age_days": Param(
        None,
        type=["null", "number"],
        exclusiveMinimum=0,
        description="Alert if no image was fetched or confirmed for this many days (30).",
    ),
}

TRAIN: Mapping[str, Param] = {
    **COMMON,
    "run_name": Param(
        None,
        type=["null", "string"],
        pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,90}$",
        description="Runs are named RUN_NAME-TIME (dalle).",
    ),
    "keep_runs": Param(
        None,
        type=["null", "integer"],
        minimum=1,
        description="Keep this many runs of this name; remove older ones that nothing needs (default: all).",
    ),
}

# Values of params that are null and have no setting of the same name on the workers.
DEFAULTS: Mapping[str, Any] = {
    "rate": None,
    "parts": 4,
    "mode": "refresh",
    "min_good_share": 0.95,
    "max_different_share": 0.10,
    "max_age_days": 30,
    "run_name": "dalle",
    "keep_runs": None,
}
