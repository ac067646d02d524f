"""The check of GPUs: what the driver sees, and what torch sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.app.doctor.check import Check, State
from pipeline.app.doctor.importing import Imported
from pipeline.app.doctor.programs import Ran, run_program

_SECTION = "GPU"
_QUERY = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")


@dataclass(frozen=True, kw_only=True)
class Driver:
    """What ``nvidia-smi`` reports: the GPUs, one line each, or an error. Neither if there is no driver."""

    gpus: tuple[str, ...] = ()
    error: str = ""


def find_driver() -> Driver:
    """Ask the NVIDIA driver for its GPUs."""
    return read_driver(run_program(_QUERY))


def read_driver(ran: Ran | None) -> Driver:
    """The driver's answer; None if there is no ``nvidia-smi``."""
    if ran is None:
        return Driver()
    lines = tuple(line.strip() for line in ran.output.splitlines() if line.strip())
    if ran.code != 0:
        return Driver(error=lines[0] if lines else f"nvidia-smi ended with exit code {ran.code}")
    return Driver(gpus=lines)


def check_gpu(driver: Driver, torch: Imported, torch_version: str | None) -> Check:
    """Whether there is a GPU and torch can use it."""
    devices = tuple(torch.facts.get("devices", ()))
    works = torch.error is None
    state, found, advice = _judge(driver, devices, works, torch_version, torch.facts.get("cuda"))
    return Check(
        section=_SECTION,
        name="GPU",
        state=state,
        found=found,
        advice=advice,
        facts={"driver": list(driver.gpus), "torch": list(devices)},
    )


def _judge(
    driver: Driver,
    devices: tuple[Mapping[str, Any], ...],
    torch_works: bool,
    torch_version: str | None,
    cuda: str | None,
) -> tuple[State, str, str]:
    if devices:
        named = [f"{d['name']} ({d['bytes'] / 1e9:.0f} GB, sm {d['capability']})" for d in devices]
        by_driver = f"; driver: {driver.gpus[0].rpartition(', ')[2]}" if driver.gpus else ""
        return "ok", f"{', '.join(named)}; CUDA of torch: {cuda}{by_driver}", ""
    if driver.error:
        return "bad", driver.error, "Reinstall the NVIDIA driver, or restart the machine"
    if not driver.gpus:
        purpose = "for training and encoding at full size; the demo needs none"
        return "missing", f"none found; {purpose}", ""
    seen = "; ".join(driver.gpus)
    if not torch_works:
        return "ok", f"{seen} (by the driver; torch is not there to use it)", ""
    if cuda is None:
        return "bad", f"{seen}, but torch {torch_version} is built for CPUs", _CUDA_BUILD
    return "bad", f"{seen}, but torch {torch_version} for CUDA {cuda} can't use it", _NEWER_DRIVER


_CUDA_BUILD = "Install a build of torch for CUDA"
_NEWER_DRIVER = "Check CUDA_VISIBLE_DEVICES, and that the driver is new enough for this CUDA"
