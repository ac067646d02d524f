"""How fast images become codes: the f16-16384 VQGAN at 256×256, beside DALLE-pytorch's `VQGanVAE`.

    python bench/encode.py [--images 8] [--repeats 3] [--device auto|cpu|cuda] [--batches 1,4,8]

Every variant runs in a process of its own, on the same images and the same random weights: its rate
is the median of `--repeats` passes over the images, its memory the peak of that process (on CUDA: of
the device). The peer's best batch size of `--batches` is taken. On CUDA the FLOPs of the encoder are
counted and set against the matrix rate that the device shows in bf16. Needs of this project only the
package on the path; where dalle-pytorch or taming-transformers are not installed, the peer's rows are
left out.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
import yaml
from PIL import Image
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pipeline.encode.encoder import Encoder
from pipeline.models.codecs.pixels import Pixels, read_square
from pipeline.models.codecs.precision import use_huge_pages, use_precision
from pipeline.models.codecs.vqgan_files import load_vqgan

SIDE = 256
SETTINGS: dict[str, Any] = {
    "embed_dim": 256,
    "n_embed": 16384,
    "ddconfig": {
        "double_z": False,
        "z_channels": 256,
        "resolution": SIDE,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 128,
        "ch_mult": [1, 1, 2, 2, 4],
        "num_res_blocks": 2,
        "attn_resolutions": [16],
        "dropout": 0.0,
    },
    "lossconfig": {"target": "torch.nn.Identity"},
}
Encode = Callable[[Pixels], Tensor]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One variant: `name` is stock, fp32, tf32 or bf16; `compiled` is of ours."""

    name: str
    batch: int
    compiled: bool
    device: str
    images: int
    repeats: int
    folder: Path


# --- The variants --------------------------------------------------------------------------------


def run_job(job: Job) -> dict[str, Any]:
    """Rate, memory and codes of a variant; called in a process of its own."""
    encode = make_stock(job) if job.name == "stock" else make_ours(job)
    pixels = draw_images(job.images)
    batches = [pixels[start : start + job.batch] for start in range(0, job.images, job.batch)]
    encode(batches[0])
    seconds = []
    for _ in range(job.repeats):
        began = time.perf_counter()
        codes = torch.cat([encode(batch) for batch in batches]).cpu()
        seconds.append(time.perf_counter() - began)
    return {
        "rate": job.images / statistics.median(seconds),
        "peak_bytes": peak_bytes(job.device),
        "codes": codes.numpy(),
    }


def make_ours(job: Job) -> Encode:
    """What `pipeline encode` runs."""
    use_huge_pages()
    codec = load_vqgan(job.folder / "model.yaml", job.folder / "last.ckpt", device=job.device)
    use_precision(codec, job.name)  # type: ignore[arg-type]
    encoder = Encoder(codec, job.batch)
    if job.compiled:
        encoder.compile()
    return encoder.encode


def make_stock(job: Job) -> Encode:
    """`VQGanVAE.get_codebook_indices` in float32, as it comes; TF32 is off, as for ours."""
    torch.backends.cudnn.allow_tf32 = False
    with stand_ins():
        module = importlib.import_module("dalle_pytorch")
    files = str(job.folder / "last.ckpt"), str(job.folder / "model.yaml")
    with contextlib.redirect_stdout(io.StringIO()):
        vae = module.VQGanVAE(*files).eval().to(job.device)

    def encode(pixels: Pixels) -> Tensor:
        images = torch.from_numpy(pixels).to(job.device).permute(0, 3, 1, 2).contiguous() / 255
        codes: Tensor = vae.get_codebook_indices(images)
        return codes

    return encode


def peak_bytes(device: str) -> int:
    """The most memory that this process, or its device, has held."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def draw_images(count: int) -> Pixels:
    """Smooth images of many colours, uint8 [count, 256, 256, 3]; the same ones each time."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
    resize = Image.Resampling.BICUBIC
    return np.stack([np.array(Image.fromarray(p).resize((SIDE, SIDE), resize)) for p in small])


# --- Weights and the peer ------------------------------------------------------------------------


def write_files(folder: Path) -> None:
    """A YAML and a checkpoint with random weights; the codebook is among the latents of images."""
    model = {"target": "taming.models.vqgan.VQModel", "params": SETTINGS}
    (folder / "model.yaml").write_text(yaml.safe_dump({"model": model}))
    from pipeline.models.codecs.vqgan import VQGAN, NearestEntries
    from pipeline.models.codecs.vqgan_files import read_vqgan_config

    torch.manual_seed(0)
    codec = VQGAN(read_vqgan_config(folder / "model.yaml")).requires_grad_(False).eval()
    images = torch.from_numpy(draw_images(2)).permute(0, 3, 1, 2).float() / 255
    latents = codec.encode_latents(images).permute(0, 2, 3, 1).flatten(0, 2)
    assert isinstance(codec.quantize, NearestEntries)
    entries = codec.quantize.embedding.weight
    picked = torch.randint(len(latents), (len(entries),))
    entries.copy_(latents[picked] + latents.std() * torch.randn_like(entries))
    state = {name: tensor.contiguous() for name, tensor in codec.state_dict().items()}
    torch.save({"state_dict": state}, folder / "last.ckpt")


class Settings(dict[str, Any]):
    """As much of an OmegaConf object as the peer uses."""

    def __getattr__(self, name: str) -> Any:
        value = self[name]
        return Settings(value) if isinstance(value, Mapping) else value

    @staticmethod
    def load(path: str) -> Settings:
        """The content of a YAML."""
        return Settings(yaml.safe_load(Path(path).read_text()))


def instantiate(config: Mapping[str, Any]) -> Any:
    """The object that a part of the YAML describes."""
    module, _, name = config["target"].rpartition(".")
    return getattr(importlib.import_module(module), name)(**config.get("params", {}))


@contextlib.contextmanager
def stand_ins() -> Iterator[None]:
    """The modules that the peer imports and encoding doesn't need, where they are not installed."""
    contents: dict[str, dict[str, Any]] = {
        "omegaconf": {"OmegaConf": Settings},
        "pkg_resources": {"get_distribution": None},
        "pytorch_lightning": {"LightningModule": torch.nn.Module},
        "requests": {},
        "taming.main": {"instantiate_from_config": instantiate},
    }
    for name, content in contents.items():
        if name not in sys.modules:
            sys.modules[name] = ModuleType(name)
            vars(sys.modules[name]).update(content)
    yield


def has_peer() -> bool:
    """Whether `VQGanVAE` can be imported here."""
    try:
        with stand_ins():
            importlib.import_module("dalle_pytorch")
    except ImportError as error:
        print(f"The peer is left out: {error}.")
        return False
    return True


# --- Feeding, FLOPs, matrix rate -----------------------------------------------------------------


def feeding_rate(images: int) -> tuple[float, int]:
    """Images a second that are read, decoded, resized by the threads of the stage; and how many."""
    large = [Image.fromarray(p).resize((320, 288)) for p in draw_images(16)]
    files = []
    for each in large:
        file = io.BytesIO()
        each.save(file, "PNG")
        files.append(file.getvalue())
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads) as pool:
        began = time.perf_counter()
        list(pool.map(lambda n: read_square(files[n % 16], SIDE), range(images)))
        return images / (time.perf_counter() - began), threads


def encoder_flops(folder: Path) -> int:
    """Floating-point operations of encoding one image, counted."""
    codec = load_vqgan(folder / "model.yaml", folder / "last.ckpt")
    with FlopCounterMode(display=False) as counter:
        codec.encode(torch.zeros(1, 3, SIDE, SIDE))
    return counter.get_total_flops()


def matrix_rate(device: str) -> float:
    """FLOP/s of the best of some bf16 products of square matrices."""
    side = 8192 if device == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        began = time.perf_counter()
        a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


# --- The table -----------------------------------------------------------------------------------


def measure(jobs: list[Job]) -> list[dict[str, Any]]:
    """The results of jobs, each in a fresh process."""
    results = []
    for job in jobs:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            results.append(pool.apply(run_job, (job,)))
        rate, peak = results[-1]["rate"], results[-1]["peak_bytes"]
        print(f"  {describe(job):34s}{rate:9.2f} images/s{peak / 1e9:8.2f} GB", flush=True)
    return results


def describe(job: Job) -> str:
    """A row's name."""
    who = "VQGanVAE, fp32" if job.name == "stock" else f"ours, {job.name}"
    return f"{who}{', compiled' if job.compiled else ''}, batch {job.batch}"


def list_jobs(options: argparse.Namespace, folder: Path, device: str) -> list[Job]:
    """The peer at every batch size, then ours in every precision that the device has."""
    common = {
        "device": device,
        "images": options.images,
        "repeats": options.repeats,
        "folder": folder,
    }
    batches = [int(batch) for batch in options.batches.split(",")]
    stock = batches if has_peer() else []
    jobs = [Job(name="stock", batch=batch, compiled=False, **common) for batch in stock]
    ours = options.our_batch or (1 if device == "cpu" else max(batches))
    names = ["fp32", "bf16"] if device == "cpu" else ["fp32", "tf32", "bf16"]
    jobs += [Job(name=name, batch=ours, compiled=False, **common) for name in names]
    if options.compile or device == "cuda":
        jobs.append(Job(name="bf16", batch=ours, compiled=True, **common))
    return sorted(
        jobs, key=lambda job: job.batch
    )  # the peer's on either side of ours: machines drift


def show_ratios(jobs: list[Job], results: list[dict[str, Any]]) -> None:
    """Ours against the peer's best batch, and what became of the codes."""
    stock = [r for job, r in zip(jobs, results, strict=True) if job.name == "stock"]
    if not stock:
        return
    best = max(stock, key=lambda result: result["rate"])
    for job, result in zip(jobs, results, strict=True):
        if job.name != "stock":
            same = (result["codes"] == best["codes"]).mean()
            memory = result["peak_bytes"] / best["peak_bytes"]
            print(
                f"  {describe(job):34s}{result['rate'] / best['rate']:9.2f} × the peer's best"
                f"{memory:8.2f} × its memory{same:10.3%} of its codes"
            )


def show_device(
    jobs: list[Job], results: list[dict[str, Any]], folder: Path, device: str, count: int
) -> None:
    """The feeding rate, and what share of the matrix rate the best of ours reaches."""
    fed, threads = feeding_rate(count)
    ours = [(r["rate"], job) for job, r in zip(jobs, results, strict=True) if job.name != "stock"]
    fastest, job = max(ours, key=lambda pair: pair[0])
    flops, matrix = encoder_flops(folder), matrix_rate(device)
    print(f"  feeding: {fed:.0f} images/s by {threads} threads, {fed / fastest:.1f} × the encoder")
    print(f"  encoder: {flops / 1e9:.1f} GFLOP an image; {describe(job)}: {fastest:.2f} images/s")
    share = fastest * flops / matrix
    print(f"  bf16 matrix rate: {matrix / 1e12:.2f} TFLOP/s, of which that is {share:.0%}")


def main() -> None:
    """Measure all variants, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=None, help="default: 8, on CUDA 512")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument(
        "--batches", default=None, help="of the peer; default: 1,4,8, on CUDA 16,64"
    )
    parser.add_argument("--our-batch", type=int, default=None)
    parser.add_argument("--compile", action="store_true", help="also compiled on a CPU")
    options = parser.parse_args()
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    options.images = options.images or (512 if device == "cuda" else 8)
    options.batches = options.batches or ("16,64" if device == "cuda" else "1,4,8")
    where = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} cores"
    print(
        f"torch {torch.__version__} on {device} ({where}), {options.images} images of {SIDE} × {SIDE}"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_files(folder)
        jobs = list_jobs(options, folder, device)
        results = measure(jobs)
        print()
        show_ratios(jobs, results)
        show_device(jobs, results, folder, device, 64 if device == "cpu" else 2048)


if __name__ == "__main__":
    main()
