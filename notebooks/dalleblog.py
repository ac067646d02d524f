# %% [markdown]
# # From a web page to a text-to-image model
#
# This notebook scrapes images with captions, looks at them, trains an image codec and a small DALL·E on them, and
# generates images for your own prompts. It takes about ten minutes on two CPU cores. A GPU is used if there is one.
#
# The images come from a mock server on this machine, which draws them; no other server gets a request. The last
# section shows how to use the real page or your own images.
#
# - **Colab**: *File → Upload notebook*, upload the wheel `dalle_pipeline-….whl` (built by `pip wheel --no-deps .` in
#   a checkout) with the folder icon on the left, then *Runtime → Run all*. A GPU is optional (*Runtime → Change
#   runtime type*). Installing the wheel keeps Colab's torch.
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

# %%
# @title Settings
CAPTIONS = 60  # @param {type:"integer"}
CODEC_STEPS = 300  # @param {type:"integer"}
TRAIN_STEPS = 600  # @param {type:"integer"}

import os
import shlex

if "DALLE_NOTEBOOK_QUICK" in os.environ:  # for tests: everything runs, nothing becomes beautiful
    CAPTIONS, CODEC_STEPS, TRAIN_STEPS = 4, 5, 5


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


print(f"{CAPTIONS} captions, {CODEC_STEPS} steps for the codec, {TRAIN_STEPS} for the model")

# %% [markdown]
# ## Scrape
# The mock server runs in the background. Its page has the captions and the layout of the DALL·E blog post of January
# 2021.

# %%
import json

server = subprocess.Popen(
    ["pipeline", "replica", "--port", "0", "--json"],
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
    text=True,
)
ADDRESS = json.loads(server.stdout.readline())["address"].rstrip("/")
print("The mock server is running.")

# %%
pipeline(
    f"scrape dalleblog --page-url {ADDRESS}/blog/dall-e/ --sections emojis --sections relative_positions "
    f"--limit {CAPTIONS} --workspace data"
)

# %% [markdown]
# ## Dedupe, and look at the images
# Every image is decoded once. The tables list which images are used, which are not, and why.

# %%
pipeline("dedupe --val-fraction 0.1 --near-duplicates off --workspace data")

# %%
import pipeline as dalle_pipeline

dataset = dalle_pipeline.open("data")
kept = dataset.kept(columns=["key", "caption", "split"]).sort_values("key")
print(f"{len(kept)} images are kept, {len(dataset.rejected())} rejected")
print(*kept.caption.drop_duplicates().iloc[:: max(1, CAPTIONS // 8)].head(8), sep="\n")
contact_sheet([dataset.image(key) for key in kept.key.iloc[:: max(1, len(kept) // 24)][:24]])

# %% [markdown]
# ## Train a codec
# The codec turns an image into a grid of codes and back. The upper row shows originals, the lower row the same images
# after encoding and decoding.

# %%
pipeline(f"train-codec --steps {CODEC_STEPS} --channels 32 --workspace data")

# %%
from PIL import Image

reconstructions = Image.open("data/codecs/small/reconstructions.png")
reconstructions.thumbnail((512, 512))
reconstructions

# %%
pipeline("encode --workspace data")

# %% [markdown]
# ## Shard
# A tokenizer turns captions into token ids. Captions, ids and codes are joined into WebDataset tars. Training reads
# nothing else.

# %%
pipeline("train-tokenizer --vocab-size 400 --workspace data")
pipeline("shard --text-seq-len 48 --workspace data")

# %% [markdown]
# ## Train
# The model has 0.6 million parameters. You can interrupt the cell: it saves the current step, and running it again
# continues from there.

# %%
pipeline(
    f"train --dim 96 --depth 3 --heads 3 --dim-head 32 --steps {TRAIN_STEPS} --batch-size 8 "
    "--learning-rate 4e-3 --null-cond-prob 0.1 --workspace data"
)

# %% [markdown]
# ## Generate
# Type a prompt and run the cell. The model knows only what is in captions like those above.

# %%
PROMPT = "a small red block sitting on a large green block"  # @param {type:"string"}
pipeline(
    f"generate --num-images 8 --name drawn --on-change restart {shlex.quote(PROMPT)} --workspace data"
)
contact_sheet(
    [Image.open(path) for path in sorted(Path("data/generated/drawn").glob("0000-*.png"))], side=96
)

# %% [markdown]
# ## Your own data
# - **A folder of images** with a `.txt` file beside each: `pipeline("scrape folder PATH --workspace mine")`, then the
#   cells above, starting with *Dedupe*, with `--workspace mine`. The notebook `own_images.ipynb` does this. On Colab,
#   upload the folder, or mount your drive: `from google.colab import drive; drive.mount("/content/drive")`.
# - **A list of URLs** with captions (CSV, TSV, JSON, Parquet, such as CC12M's):
#   `pipeline("scrape urls LIST.tsv --preset cc12m --limit 1000 --contact you@example.org --workspace list")`. This
#   sends requests to other people's servers, so say who you are.
# - **The blog post itself**: `pipeline("scrape dalleblog --contact you@example.org --workspace blog")`.
#
# Every long stage prints an estimate before it begins, and an interrupted command continues where it stopped. `status`
# shows what is there and what comes next:

# %%
pipeline("status --workspace data")

# %%
server.terminate()
print("The mock server ended with", server.wait())
