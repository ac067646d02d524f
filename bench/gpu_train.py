"""The training parts of bench/gpu.py: steps of random batches, which are on the device already.

A step is what `pipeline train` does: autocast, the loss, its gradients, clipping and fused AdamW. Ours are
compiled block by block, as there; "eager" is the same without.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.gpu import Place, Row
from pipeline.models.dalle.attention import Pattern
from pipeline.models.dalle.attention_kernels import choose_kernel
from pipeline.models.dalle.attention_types import ATTENTION_TYPES
from pipeline.models.dalle.config import DalleConfig
from pipeline.models.dalle.flops import training_flops
from pipeline.models.dalle.model import Dalle
from pipeline.models.devices import is_out_of_memory, matmul_rate, peak_bytes
from pipeline.train.compiling import compile_model
from pipeline.train.config import OptimizerOptions
from pipeline.train.feeding import DeviceBatch
from pipeline.train.optimizer import TorchStepper, make_optimizer
from pipeline.train.precision import DTYPES, allow_tf32
from pipeline.train.step_graph import StepGraph

DALLEBLOG: dict[str, Any] = {
    "dim": 544,
    "depth": 12,
    "heads": 16,
    "dim_head": 64,
    "text_seq_len": 96,
    "num_text_tokens": 49408,
    "num_image_tokens": 16384,
    "image_fmap_size": 16,
    "loss_img_weight": 1.0,
}
WIDE = {**DALLEBLOG, "dim": 1024, "depth": 24}
LONG = {**DALLEBLOG, "text_seq_len": 256, "image_fmap_size": 32}
TINY = {
    **DALLEBLOG,
    "dim": 16,
    "depth": 2,
    "heads": 2,
    "dim_head": 8,
    "text_seq_len": 16,
    "num_text_tokens": 40,
    "num_image_tokens": 24,
    "image_fmap_size": 4,
}


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A model and how it is run; `how` is eager, compiled, or graphs (compiled, and steps in CUDA graphs)."""

    shape: dict[str, Any]
    batch: int
    how: str = "compiled"
    kind: str = "full"

    def config(self, place: Place) -> DalleConfig:
        """The model's shape: a tiny one to see that it runs."""
        return DalleConfig(**(TINY if place.smoke else self.shape), attn_types=(self.kind,))


def measure_device(place: Place) -> Iterator[Row]:
    """Name and memory, and the rate of plain matrix products, which MFU is relative to."""
    device = torch.device(place.device)
    row: Row = {"torch": torch.__version__, "device": str(device)}
    if device.type == "cuda":
        facts = torch.cuda.get_device_properties(device)
        row |= {"device": facts.name, "memory GB": facts.total_memory / 1e9}
    allow_tf32(device)
    names = ["fp32"] if place.smoke else ["bf16", "fp32"]
    for name in names:
        shown = "TF32" if name == "fp32" and device.type == "cuda" else name
        row[f"{shown} TFLOP/s"] = matmul_rate(device, DTYPES[name]) / 1e12
    yield row


def measure_training(place: Place) -> Iterator[Row]:
    """The blog's shape at its batch and larger ones, dense and sparse, compiled and eager."""
    trials = (
        Trial(shape=DALLEBLOG, batch=24),
        Trial(shape=DALLEBLOG, batch=256),
        Trial(shape=DALLEBLOG, batch=24, kind="sparse"),
        Trial(shape=DALLEBLOG, batch=24, how="eager"),
        Trial(shape=DALLEBLOG, batch=64),
        Trial(shape=DALLEBLOG, batch=256, kind="sparse"),
        Trial(shape=DALLEBLOG, batch=256, how="eager"),
    )
    for trial in trials[:1] + trials[2:4] if place.smoke else trials:
        yield train(trial, place)


def measure_wide(place: Place) -> Iterator[Row]:
    """A model of 470 million parameters, whose products fill the device."""
    for batch in (64,) if place.smoke else (64, 128, 32):
        yield train(Trial(shape=WIDE, batch=batch), place)


def measure_graphs(place: Place) -> Iterator[Row]:
    """Steps as CUDA graphs, at batches where launching takes its share."""
    for batch in (8,) if place.smoke else (8, 24, 64):
        for how in ("compiled", "graphs"):
            yield train(Trial(shape=DALLEBLOG, batch=batch, how=how), place)


def measure_stock(place: Place) -> Iterator[Row]:
    """dalle-pytorch's class with the Adam of its train_dalle.py, in fp16, up to the batch that is fastest."""
    try:
        from tests.oracles.dalle import stock_dalle
    except ImportError as error:
        yield {"how": f"not measured: {error}"}
        return
    best = 0.0
    for batch in (24, 64, 128, 256):
        trial = Trial(shape=DALLEBLOG, batch=batch, how="dalle-pytorch")
        row = train(trial, place, make=lambda config: StockLoss(stock_dalle(config)))
        yield row
        speed = row.get("tokens/s", 0.0)
        if speed < best or place.smoke:
            return
        best = speed


class StockLoss(nn.Module):
    """dalle-pytorch's class, called as ours."""

    def __init__(self, stock: nn.Module) -> None:
        super().__init__()
        self.stock = stock

    def forward(self, tokens_BT: Tensor, codes_BN: Tensor) -> Tensor:
        """The loss."""
        loss: Tensor = self.stock(tokens_BT, codes_BN, return_loss=True)
        return loss


def train(trial: Trial, place: Place, make: Callable[[DalleConfig], nn.Module] = Dalle) -> Row:
    """Time some steps of a model; the row has no times if it does not fit."""
    row: Row = {"how": trial.how, "attention": trial.kind, "batch": trial.batch}
    try:
        return row | time_steps(trial, place, make)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return row | {"tokens/s": "out of memory"}
    finally:
        gc.collect()
        if place.device == "cuda":
            torch.cuda.empty_cache()


def time_steps(trial: Trial, place: Place, make: Callable[[DalleConfig], nn.Module]) -> Row:
    """Seconds to the end of the first step, then the mean of some steps: speed, MFU and memory."""
    device, config = torch.device(place.device), trial.config(place)
    batch = 2 if place.smoke else trial.batch
    allow_tf32(device)
    torch.manual_seed(0)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    model = make(config).to(device)
    step = make_step(model, trial, place)
    tokens_BT = torch.randint(
        1, config.num_text_tokens, (batch, config.text_seq_len), device=device
    )
    codes_BN = torch.randint(config.num_image_tokens, (batch, config.image_seq_len), device=device)
    began = time.perf_counter()
    step(tokens_BT, codes_BN)
    wait_for(device)
    first_s = time.perf_counter() - began
    for _ in range(1 if place.smoke else 3):
        step(tokens_BT, codes_BN)
    wait_for(device)
    count, began = 0, time.perf_counter()
    least = 2 if place.smoke else 20
    while count < least:
        loss = step(tokens_BT, codes_BN)
        count += 1
    wait_for(device)
    seconds = (time.perf_counter() - began) / count
    rate = matmul_rate(device, torch.float32 if place.smoke else torch.bfloat16)
    return {
        "ms a step": seconds * 1e3,
        "tokens/s": batch * config.total_seq_len / seconds,
        "MFU": batch * training_flops(config) / seconds / rate,
        "peak GB": peak_bytes(device) / 1e9,
        "first step s": first_s,
        "loss": loss.item(),
    }


def make_step(model: nn.Module, trial: Trial, place: Place) -> Callable[[Tensor, Tensor], Tensor]:
    """A function that trains on a batch and returns its loss, without waiting for it."""
    if trial.how == "dalle-pytorch":
        return stock_step(model, place)
    if trial.how != "eager":
        # The compiler itself takes a minute on a CPU.
        compile_model(model, "none", **({"backend": "aot_eager"} if place.smoke else {}))
    in_graphs = trial.how == "graphs"
    optimizer = make_optimizer(model, OptimizerOptions(), in_graphs=in_graphs)
    stepper = TorchStepper(model=model, optimizer=optimizer, max_norm=0.5)

    def step(tokens_BT: Tensor, codes_BN: Tensor) -> Tensor:
        with torch.autocast(place.device, torch.bfloat16, enabled=not place.smoke):
            loss: Tensor = model(tokens_BT, codes_BN).total
        stepper.backward(loss)
        loss = loss.detach().clone()
        stepper.step(~loss.isfinite())
        return loss

    if not in_graphs or place.device != "cuda":
        return step
    graph = StepGraph(
        lambda batches: (step(batches[0].tokens_BT, batches[0].codes_BN),) * 4, optimizer
    )

    def replay(tokens_BT: Tensor, codes_BN: Tensor) -> Tensor:
        batch = DeviceBatch(tokens_BT=tokens_BT, codes_BN=codes_BN, rows=np.arange(len(tokens_BT)))
        return graph.run([batch])[0]

    return replay


def stock_step(model: nn.Module, place: Place) -> Callable[[Tensor, Tensor], Tensor]:
    """dalle-pytorch's own step: fp16 with a loss scale, clipping, plain Adam."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=3e-4)
    scaler = torch.amp.GradScaler(place.device, enabled=not place.smoke)

    def step(tokens_BT: Tensor, codes_BN: Tensor) -> Tensor:
        with torch.autocast(place.device, torch.float16, enabled=not place.smoke):
            loss: Tensor = model(tokens_BT, codes_BN)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(trained, 0.5)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def measure_attention(place: Place) -> Iterator[Row]:
    """Forward and backward of each kind's attention by kernel, in ms; flash and cuDNN for the causal one."""
    device = torch.device(place.device)
    shapes = ((DALLEBLOG, 64), (LONG, 16))
    for shape, batch in shapes[:1] if place.smoke else shapes:
        for kind in ATTENTION_TYPES:
            config = Trial(shape=shape, batch=batch, kind=kind).config(place)
            size = (
                2 if place.smoke else batch,
                config.heads,
                config.total_seq_len,
                config.dim_head,
            )
            dtype = torch.float32 if place.smoke else torch.bfloat16
            qkv = [torch.randn(size, device=device, dtype=dtype) for _ in range(3)]
            for kernel, attend in kernels(kind, config, place):
                yield {
                    "attention": kind,
                    "positions": config.total_seq_len,
                    "kernel": kernel,
                    "ms": time_attention(attend, qkv, place),
                    "chosen": choose_kernel(config.layer_types[0], config.total_seq_len),
                }


Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def kernels(kind: str, config: DalleConfig, place: Place) -> Iterator[tuple[str, Attend]]:
    """The kernels that a kind can use on this device."""
    pattern = Pattern(config.layer_types[0], config).to(place.device)
    if kind == "full":
        from torch.nn.attention import SDPBackend, sdpa_kernel

        names = {"flash": SDPBackend.FLASH_ATTENTION, "cuDNN": SDPBackend.CUDNN_ATTENTION}
        for name, backend in ({} if place.device == "cpu" else names).items():

            def attend(q: Tensor, k: Tensor, v: Tensor, backend: Any = backend) -> Tensor:
                with sdpa_kernel(backend):
                    return pattern.attend(q, k, v)

            yield name, attend
        yield "torch's choice", pattern.attend
        return
    backend = {"backend": "aot_eager"} if place.smoke else {}
    yield "prefix", torch.compile(pattern.attend, dynamic=False, **backend)
    if place.device == "cuda":  # on a CPU it has no gradients
        flex = Pattern(config.layer_types[0], config).to(place.device)
        flex.use_flex(config)
        yield "flex", torch.compile(flex.attend, dynamic=False)


def time_attention(attend: Attend, qkv: list[Tensor], place: Place) -> float | str:
    """Milliseconds of forward and backward; the error's name if the kernel refuses."""
    device, repeats = torch.device(place.device), 1 if place.smoke else 30
    query, key, value = (x.clone().requires_grad_() for x in qkv)
    upstream = torch.randn_like(query)
    try:
        for warm_up in (True, False):
            wait_for(device)
            began = time.perf_counter()
            for _ in range(3 if warm_up else repeats):
                attend(query, key, value).backward(upstream)
        wait_for(device)
    except Exception as error:
        return type(error).__name__
    return (time.perf_counter() - began) / repeats * 1e3


def wait_for(device: torch.device) -> None:
    """Wait until the device has done all of its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
