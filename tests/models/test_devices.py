"""Choosing a device, and saying why a GPU can't be used. No GPU is needed: torch's answers are made up."""

from __future__ import annotations

import warnings

import pytest
import torch

from pipeline.core.errors import ConfigError, ModelError
from pipeline.models.devices import claim_gpu, gpu_failures, is_gpu_failure, pick_device

CUDA = torch.device("cuda")
OLD = (
    "CUDA initialization: The NVIDIA driver on your system is too old (found version 11040). Please update "
    "your GPU driver. (Triggered internally at CUDAFunctions.cpp:119.)"
)


@pytest.fixture
def cuda_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")


def available(answer: bool, warning: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def is_available() -> bool:
        if warning is not None:
            warnings.warn(warning, UserWarning, stacklevel=2)
        return answer

    monkeypatch.setattr(torch.cuda, "is_available", is_available)


@pytest.mark.usefixtures("cuda_build")
@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_a_gpu_is_used_if_there_is_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    available(True, None, monkeypatch)
    assert pick_device(name) == CUDA
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.usefixtures("cuda_build")
def test_a_driver_that_is_too_old_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    available(False, OLD, monkeypatch)
    with pytest.raises(ConfigError, match=r"--device cuda: .*driver .* is too old \(found version"):
        pick_device("cuda")
    assert pick_device("auto") == torch.device("cpu")
    assert "Using the CPU: CUDA initialization: The NVIDIA driver" in caplog.text
    assert "Triggered" not in caplog.text


@pytest.mark.usefixtures("cuda_build")
def test_a_machine_without_a_gpu_is_used_without_a_word(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    available(False, None, monkeypatch)
    assert pick_device("auto") == torch.device("cpu")
    assert not caplog.text
    with pytest.raises(ConfigError, match=r"torch finds no CUDA device\. Use --device cpu or auto"):
        pick_device("cuda")


def test_a_torch_without_cuda_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    available(False, None, monkeypatch)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(ConfigError, match="this build of torch has no CUDA"):
        pick_device("cuda")


@pytest.mark.parametrize(("free", "warns"), [(139e9, False), (126e9, False), (20e9, True)])
def test_memory_that_others_use_is_reported(
    free: float, warns: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (int(free), int(139.5e9)))
    claim_gpu(CUDA)
    said = "Other processes use 119.5 of the GPU's 139.5 GB" in caplog.text
    assert said == bool(caplog.text) == warns


def test_a_gpu_that_another_process_has_to_itself_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def busy(_: torch.device) -> tuple[int, int]:
        raise RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable\nmore")

    monkeypatch.setattr(torch.cuda, "mem_get_info", busy)
    with pytest.raises(ConfigError, match=r"busy or unavailable\)\. See with nvidia-smi"):
        claim_gpu(CUDA)


def test_a_cpu_is_not_asked_for_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", None)
    claim_gpu(torch.device("cpu"))


@pytest.mark.parametrize(
    ("error", "failed"),
    [
        (RuntimeError("CUDA error: unspecified launch failure"), True),
        (RuntimeError("NCCL error in: ProcessGroupNCCL.cpp:2395, remote process exited"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("CUDA error"), False),
    ],
    ids=str,
)
def test_a_failed_gpu_is_told_from_other_errors(error: Exception, failed: bool) -> None:
    assert is_gpu_failure(error) == failed
    with (
        pytest.raises(ModelError if failed else type(error)) as raised,
        gpu_failures("All is kept"),
    ):
        raise error
    assert ("All is kept: the same command resumes" in str(raised.value)) == failed
