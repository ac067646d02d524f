"""How fast and how big a training step is, beside dalle-pytorch's own class on the same weights and batches.

    python bench/train.py [--batch 2] [--big-batch 4] [--steps 3] [--fresh-memory]

The shape is the blog's (12 layers of 544, 16 heads of 64, 96 text tokens, 256 codes of 16,384; dense
attention, as the class's sparse one no longer runs). Every class and precision is measured in a process of
its own, which prints seconds of each step, losses and peak memory; ratios are of medians, the first step
left out. On a CUDA device: fp16 autocast for the class, batch 24 and the largest that fits, and the share of
the device's measured bf16 rate. Without `--device` the one that is there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from pipeline.core.config import build_config
from pipeline.models.dalle.config import DalleConfig
from pipeline.models.dalle.flops import training_flops
from pipeline.models.dalle.model import Dalle
from pipeline.models.devices import keep_freed_memory, matmul_rate, peak_bytes
from pipeline.train.compiling import compile_model
from pipeline.train.config import TrainConfig
from pipeline.train.distributed import Ranks
from pipeline.train.precision import DTYPES, allow_tf32
from pipeline.train.state import load_weights, make_state

SHAPE = DalleConfig(
    dim=544,
    depth=12,
    heads=16,
    dim_head=64,
    text_seq_len=96,
    num_text_tokens=49408,
    num_image_tokens=16384,
    image_fmap_size=16,
    loss_img_weight=1.0,
)
Result = dict[str, Any]


def make_batches(steps: int, batch_size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Captions of 20 to 60 ids and any codes, the same for every child."""
    rng = np.random.default_rng(0)
    batches = []
    for _ in range(steps):
        tokens = rng.integers(1, SHAPE.num_text_tokens, (batch_size, SHAPE.text_seq_len))
        for row in tokens:
            row[rng.integers(20, 60) :] = 0
        codes = rng.integers(0, SHAPE.num_image_tokens, (batch_size, SHAPE.image_seq_len))
        batches.append((torch.from_numpy(tokens), torch.from_numpy(codes)))
    return batches


def train_here(what: str, precision: str, batch_size: int, steps: int, device_name: str) -> Result:
    """Train `ours` or `stock` in this process: seconds and loss of each step, peak bytes.

    Ours steps as `pipeline train` does; the class with the plain Adam of its train_dalle.py.
    """
    device = torch.device(device_name)
    if what != "stock":
        allow_tf32(device)
    torch.manual_seed(0)
    weights = Dalle(SHAPE).state_dict()
    ranks = Ranks(kind="none", rank=0, size=1, device=device)
    config = build_config(TrainConfig, {"precision": precision})
    if what == "stock":
        from tests.oracles.codecs import dalle_pytorch

        dalle_pytorch()
        from pipeline.train.model import DallePytorchModel

        model: torch.nn.Module = DallePytorchModel(SHAPE).to(device)
    else:
        if device.type == "cpu":
            keep_freed_memory()
        model = Dalle(SHAPE).to(device)
        if device.type == "cuda":
            compile_model(model, "none")
    state = make_state(model, SHAPE, config, ranks)
    load_weights(state, weights, "the other class")
    del weights
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    trained = [p for p in model.parameters() if p.requires_grad]
    adam = torch.optim.Adam(trained, lr=config.optimizer.learning_rate)
    seconds, cpu_seconds, losses = [], [], []
    for tokens, codes in make_batches(steps, batch_size):
        began, cpu_began = time.perf_counter(), time.process_time()
        tokens_BT, codes_BN = tokens.to(device), codes.to(device)
        with torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32"):
            if what == "stock":
                loss = model.dalle(tokens_BT, codes_BN, return_loss=True)  # type: ignore[operator, union-attr]
            else:
                loss = model(tokens_BT, codes_BN).total
        if what == "stock":
            scaler.scale(loss).backward()
            scaler.unscale_(adam)
            torch.nn.utils.clip_grad_norm_(trained, config.optimizer.clip_grad_norm)
            scaler.step(adam)
            scaler.update()
            adam.zero_grad(set_to_none=True)
        else:
            state.stepper.backward(loss)
            state.stepper.step(~loss.detach().isfinite())
        losses.append(float(loss.detach()))
        seconds.append(time.perf_counter() - began)
        cpu_seconds.append(time.process_time() - cpu_began)
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "losses": losses,
        "bytes": peak_bytes(device),
    }


def in_child(what: str, precision: str, batch_size: int, steps: int, device: str) -> Result | None:
    """The same in a process of its own; None where it ran out of memory."""
    arguments = [what, precision, str(batch_size), str(steps), device]
    command = [sys.executable, __file__, "--child", *arguments]
    # Threads that wait must not count as work.
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        if "out of memory" in done.stderr.lower() or "can't allocate" in done.stderr:
            return None
        raise SystemExit(done.stderr)
    result: Result = json.loads(done.stdout.splitlines()[-1])
    return result


def median_step(result: Result, clock: str = "seconds") -> float:
    """Seconds of a step, without the first; `cpu_seconds` are those of the processor."""
    return statistics.median(result[clock][1:] or result[clock])


def measure(cases: list[tuple[str, str]], batch: int, steps: int, device: str) -> dict[str, Result]:
    """Run the cases and print their table; ratios are against the first."""
    results: dict[str, Result] = {}
    print(
        f"\nbatch {batch}: {'processor s':>15s}{'clock s':>10s}{'× first':>9s}"
        f"{'peak GB':>9s}{'× first':>9s}  losses"
    )
    rate = matmul_rate(torch.device(device), torch.bfloat16)
    for what, precision in cases:
        result = in_child(what, precision, batch, steps, device)
        if result is None:
            print(f"  {what:6s} {precision}: out of memory")
            continue
        results[f"{what} {precision}"] = result
        first = next(iter(results.values()))
        step = median_step(result)
        mfu = batch * training_flops(SHAPE) / step / rate
        print(
            f"  {what:6s} {precision:5s}{median_step(result, 'cpu_seconds'):12.2f}"
            f"{step:10.2f}{median_step(first) / step:8.2f}×"
            f"{result['bytes'] / 1e9:9.2f}{result['bytes'] / first['bytes']:8.2f}×  "
            f"{' '.join(f'{loss:.5f}' for loss in result['losses'])}  "
            f"{batch * SHAPE.total_seq_len / step:,.0f} tokens/s, {mfu:.0%} of the bf16 rate",
            flush=True,
        )
    return results


def compare(results: dict[str, Result]) -> None:
    """Print the ratios that are aimed at, and how far apart the curves of losses are."""
    pairs = (("ours fp32", "stock fp32"), ("ours bf16", "stock fp32"), ("ours bf16", "stock bf16"))
    for mine, theirs in (*pairs, ("ours fp16", "stock fp16"), ("ours bf16", "stock fp16")):
        if mine in results and theirs in results:
            ratio = median_step(results[theirs]) / median_step(results[mine])
            curves = zip(results[mine]["losses"], results[theirs]["losses"], strict=True)
            apart = max(abs(a - b) for a, b in curves)
            cpu = median_step(results[theirs], "cpu_seconds") / median_step(
                results[mine], "cpu_seconds"
            )
            print(
                f"  {mine} against {theirs}: {ratio:.2f}× by the clock, {cpu:.2f}× of the processor, "
                f"losses at most {apart:.1e} apart"
            )


def largest_batch(what: str, precision: str, device: str) -> int:
    """The largest power of two that fits, at two steps."""
    size = 8
    while in_child(what, precision, 2 * size, 2, device) is not None:
        size *= 2
    return size


def reading_share(step_seconds: float, batch: int) -> None:
    """Print what reading a batch from shards costs beside a step."""
    import tempfile

    from bench.shard import make_rows, read_ours, write_ours

    with tempfile.TemporaryDirectory() as name:
        write_ours(make_rows(4096), Path(name))
        batches = read_ours(Path(name))
        next(batches)
        began = time.perf_counter()
        count = sum(len(tokens_BT) for tokens_BT, _ in batches)
        seconds = (time.perf_counter() - began) / count * batch
    print(
        f"\nreading a batch of {batch}: {seconds * 1e3:.2f} ms, {seconds / step_seconds:.4%} of a step"
    )


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=None)
    parser.add_argument("--big-batch", type=int, default=None)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        what, precision, batch, steps, device = options.child
        print(json.dumps(train_here(what, precision, int(batch), int(steps), device)))
        return
    print(f"torch {torch.__version__}, {options.device}, {torch.get_num_threads()} threads")
    on_gpu = options.device.startswith("cuda")
    low = "fp16" if on_gpu else "bf16"
    cases = [("stock", "fp32"), ("stock", low), ("ours", "fp32"), ("ours", "bf16")]
    batch = options.batch or (24 if on_gpu else 2)
    results = measure(cases, batch, options.steps, options.device)
    compare(results)
    big = options.big_batch
    if big is None:
        big = largest_batch("ours", "bf16", options.device) if on_gpu else 4
    if big:
        compare(measure(cases, big, options.steps, options.device))
    reading_share(median_step(results["ours bf16"]), batch)


if __name__ == "__main__":
    main()
