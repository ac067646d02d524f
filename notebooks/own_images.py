# %% [markdown]
# # A text-to-image model of your own images
#
# This notebook trains an image codec and a small DALL·E on a folder of images with captions. If you don't have one, it
# makes a folder of coloured shapes. It takes about five minutes on two CPU cores. A GPU is used if there is one.
#
# - **Colab**: *File → Upload notebook*, upload the wheel `dalle_pipeline-….whl` (built by `pip wheel --no-deps .` in
#   a checkout) with the folder icon on the left, then *Runtime → Run all*. Installing the wheel keeps Colab's torch.
# - **Laptop**: open the notebook in the environment in which dalle-pipeline is installed.

# %%
# @title Install
import importlib.metadata
import importlib.util
import subprocess
import sys
from pathlib import Path


def version_of(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


if importlib.util.find_spec("pipeline") is None:
    wheels = sorted(Path().glob("dalle_pipeline-*.whl"))
    if not wheels:
        raise SystemExit(
            f"Upload the wheel dalle_pipeline-….whl to {Path().resolve()}, then run this cell again."
        )
    torch_before = version_of("torch")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", f"{wheels[-1]}[train]"], check=True
    )
    importlib.invalidate_caches()
    assert torch_before in (None, version_of("torch")), "torch was replaced"

import torch

device = torch.cuda.get_device_name() if torch.cuda.is_available() else "the CPU"
print(f"torch {torch.__version__} on {device}")

# %% [markdown]
# ## The folder
# `IMAGES` is a folder of PNG, JPEG, WebP… files. Beside each is a `.txt` file of the same name with its captions, one
# per line. On Colab, upload the folder with the folder icon, or mount your drive first:
# `from google.colab import drive; drive.mount("/content/drive")`. Captions can also be in the files' names, in a CSV
# file or in the images themselves: see `--captions-from` in `pipeline scrape folder --help`.

# %%
# @title Settings
IMAGES = ""  # @param {type:"string"}
CODEC_STEPS = 200  # @param {type:"integer"}
TRAIN_STEPS = 500  # @param {type:"integer"}

import os
import shlex

if "DALLE_NOTEBOOK_QUICK" in os.environ:  # for tests: everything runs, nothing becomes beautiful
    CODEC_STEPS, TRAIN_STEPS = 5, 5


os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def pipeline(command):
    """Run a pipeline command and show what it prints; a command that fails ends the cell."""
    words = ["pipeline", *shlex.split(command)]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout:
            print(line, end="")
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, f"pipeline {command}")


def contact_sheet(images, columns=8, side=64):
    """Small copies of images, side by side."""
    from PIL import Image

    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * side, rows * side), "white")
    for number, image in enumerate(images):
        place = (number % columns * side, number // columns * side)
        sheet.paste(image.convert("RGB").resize((side, side)), place)
    return sheet


print(IMAGES or "No folder is given: coloured shapes are drawn.")

# %%
import random

from PIL import Image, ImageDraw

if not IMAGES:
    IMAGES = "shapes"
    Path(IMAGES).mkdir(exist_ok=True)
    chance = random.Random(0)
    for number in range(240):
        colour = chance.choice(["red", "green", "blue", "orange", "purple", "black"])
        shape = chance.choice(["circle", "square", "bar"])
        side, left, top = chance.randint(30, 70), chance.randint(0, 50), chance.randint(0, 50)
        image = Image.new("RGB", (128, 128), chance.choice(["white", "lightyellow", "lightcyan"]))
        draw = ImageDraw.Draw(image)
        box = (left, top, left + side, top + (side // 3 if shape == "bar" else side))
        (draw.ellipse if shape == "circle" else draw.rectangle)(box, fill=colour)
        image.save(f"{IMAGES}/{number:03d}.png")
        Path(f"{IMAGES}/{number:03d}.txt").write_text(f"a {colour} {shape}\n")
files = sorted(Path(IMAGES).rglob("*.txt"))
print(f"{len(files)} captions, such as {files[0].read_text().strip()!r}")

# %% [markdown]
# ## Index and dedupe
# The images stay where they are. Unreadable images and exact duplicates are left out, each with a reason.

# %%
pipeline(f"scrape folder {shlex.quote(IMAGES)} --workspace mine")
pipeline("dedupe --val-fraction 0.1 --near-duplicates off --workspace mine")

# %%
import pipeline as dalle_pipeline

dataset = dalle_pipeline.open("mine")
kept = dataset.kept(columns=["key", "caption"]).sort_values("key")
print(f"{len(kept)} images are kept, {len(dataset.rejected())} rejected")
contact_sheet([dataset.image(key) for key in kept.key[:16]])

# %% [markdown]
# ## Train
# First a codec, the codes of the images, a tokenizer and shards, then the model. `pipeline run` does all of this in one
# command, and skips what is already there.

# %%
pipeline(f"train-codec --steps {CODEC_STEPS} --channels 32 --image-size 64 --workspace mine")
pipeline("encode --workspace mine")
pipeline("train-tokenizer --vocab-size 300 --workspace mine")
pipeline("shard --text-seq-len 16 --workspace mine")

# %%
pipeline(
    f"train --dim 96 --depth 3 --heads 3 --dim-head 32 --steps {TRAIN_STEPS} --batch-size 8 "
    "--learning-rate 4e-3 --null-cond-prob 0.1 --workspace mine"
)

# %% [markdown]
# ## Generate

# %%
PROMPT = "a red circle"  # @param {type:"string"}
pipeline(
    f"generate --num-images 8 --name drawn --on-change restart {shlex.quote(PROMPT)} --workspace mine"
)
contact_sheet(
    [Image.open(path) for path in sorted(Path("mine/generated/drawn").glob("0000-*.png"))]
)

# %% [markdown]
# Everything is in the folder `mine`: the tables, the codec, the shards and the model. `pipeline report` writes an HTML
# page with all of it. More images and more steps give better results.

# %%
pipeline("status --workspace mine")
