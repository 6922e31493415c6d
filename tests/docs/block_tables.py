"""Literal tables about the pages: what is made smaller before it is run, and what is not run, with the reason.

A page is a glob; a text is written as the page has it. An entry that matches nothing fails ``test_no_entry_is_stale``.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class NotRun:
    """A command or a block that is only checked: names, options, paths.

    Attributes:
        page: glob.
        start: how the line begins; with ``block``, how the text of the block does.
        reason: why not, or which test does it instead (``run by tests/...``; that file must be there).
        block: all of a block, whatever its language.
    """

    page: str
    start: str
    reason: str
    block: bool = False


@dataclass(frozen=True)
class Smaller:
    """A replacement in a block that is run; ``{port}`` in the new text is a free port.

    Attributes:
        page: glob.
        old, new: texts.
        why: if it does more than make something smaller.
    """

    page: str
    old: str
    new: str
    why: str = ""


@dataclass(frozen=True)
class Ends:
    """A line or statement that must not end well on the machine of the tests.

    Attributes:
        page: glob.
        start: how the line or statement begins.
        how: exit code of a command, or name of the exception of a statement.
        why: it does.
        unless: ``cuda``: where that works, it ends well.
    """

    page: str
    start: str
    how: int | str
    why: str
    unless: str = ""


@dataclass(frozen=True)
class Tables:
    """Everything that is known of the pages.

    Attributes:
        not_run, smaller, ends: as above.
        appended: command -> options that are added behind the page's own, and so count instead of them.
        names: page -> Python names that its text says the reader has.
        claims: page -> expressions over its Python names that are true at the end.
        configurations: page -> (file name that its commands use, schema) of its TOML block.
        starts: page -> folder of the repository whose files lie where its commands run.
        needs: page -> modules without which it is skipped.
    """

    not_run: tuple[NotRun, ...] = ()
    smaller: tuple[Smaller, ...] = ()
    ends: tuple[Ends, ...] = ()
    appended: dict[str, tuple[str, ...]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    claims: dict[str, tuple[str, ...]] = field(default_factory=dict)
    configurations: dict[str, tuple[str, str]] = field(default_factory=dict)
    starts: dict[str, str] = field(default_factory=dict)
    needs: dict[str, tuple[str, ...]] = field(default_factory=dict)


_SMALL_CROP = ("--size", "8 32 32")
_INDEX = "asks the internet: an index of packages"
_SLOW = "10 s and more; run by tests"
_EXPORT = "prostate-mim export runs/lesions --onnx"

NOT_RUN = (
    NotRun("README.md", "make demo", "run by .ci/run"),
    NotRun("README.md", "make test", "run by .ci/run; it would run itself"),
    NotRun("README.md", "pip install", _INDEX),
    NotRun("export/README.md", "pip install", f"{_INDEX}; run by tests/deploy/test_containers.py"),
    NotRun("export/README.md", "docker build", "needs Docker and its registry"),
    NotRun("export/README.md", "docker run", "needs Docker and its registry"),
    NotRun("export/space/README.md", "", "run by tests/space/test_command.py", block=True),
    NotRun("docs/training.md", "torchrun --standalone", "needs 8 GPUs; run by tests/engine/test_distributed.py"),
    NotRun("docs/training.md", "torchrun --nnodes 2", "needs a second machine"),
    NotRun("docs/training.md", "#!/bin/bash\n#SBATCH", "needs SLURM", block=True),
    NotRun("docs/training.md", "export ACCELERATE_USE_FSDP", "run by tests/engine/test_distributed.py", block=True),
    NotRun(
        "docs/models.md", "prostate-mim export resenc-s.mim-t2w --nnunet",
        "needs nnU-Net's blocks; run by tests/formats/test_nnunet.py",
    ),
    NotRun("docs/recipes/picai.md", "", "run by tests/docs/test_recipe_picai.py", block=True),
    NotRun("docs/recipes/hospital.md", "", "run by tests/docs/test_recipe_hospital.py", block=True),
    NotRun("docs/recipes/own-network.md", "", "run by tests/docs/test_recipe_own_network.py", block=True),
    NotRun("docs/training.md", "hidden tissue: ", "output; run by tests/health/test_verdict.py", block=True),
    NotRun("docs/doctor.md", " state ", "output; run by tests/docs/test_blocks.py", block=True),
    NotRun("docs/deploy.md", f"{_EXPORT} --out lesions.onnx", f"{_SLOW}/docs/test_blocks.py, on README.md"),
    NotRun("docs/deploy.md", f"{_EXPORT} --encoder", f"{_SLOW}/cli/test_export_formats.py"),
    NotRun("docs/deploy.md", f"{_EXPORT} --fp16", f"{_SLOW}/cli/test_export_formats.py"),
    NotRun("docs/deploy.md", f"{_EXPORT} --static", f"{_SLOW}/cli/test_export_formats.py"),
    NotRun("docs/deploy.md", f"{_EXPORT} --full-graph", f"{_SLOW}/deploy/test_full_graph.py"),
    NotRun("docs/deploy.md", "prostate-mim export runs/lesions --triton", f"{_SLOW}/deploy/test_triton.py"),
    NotRun("docs/models.md", "prostate-mim export resenc-s.mim-t2w --onnx", f"{_SLOW}/cli/test_main_path.py"),
    NotRun("*.md", "prostate-mim bench", f"{_SLOW}/deploy/test_bench.py"),
    NotRun("*.md", "prostate-mim doctor", f"{_SLOW}/doctor/test_report.py"),
)  # fmt: skip

SMALLER = (
    Smaller("docs/concepts/leakage.md", "studies=12", "studies=7"),
    Smaller("docs/training.md", "warmup = 1000", "warmup = 1"),
    Smaller("README.md", "--studies 40", "--studies 3"),
    Smaller("README.md", "--studies 60", "--studies 6"),
    Smaller("README.md", "--out runs/mim", "--out runs/mim --architecture resnet10"),
    Smaller("README.md", 'csv", out="runs/a")', 'csv", out="runs/a", config=FinetuneConfig(folds=2))'),
    Smaller("docs/hub.md", " org/name@v1", "", "asks the internet"),
    Smaller("docs/hub.md", "hub serve models", "hub serve models --port {port}", "8780 may be somebody's"),
    Smaller("docs/hub.md", "127.0.0.1:8780", "127.0.0.1:{port}", "as above"),
    Smaller("export/README.md", "curl -F", "curl --silent --fail-with-body -F", "an answer of 4xx is an exit code"),
    Smaller("export/README.md", "python service.py", "python service.py --port {port}", "8080 may be somebody's"),
    Smaller("export/README.md", "127.0.0.1:8080/predict", "127.0.0.1:{port}/predict", "as above"),
    Smaller(
        "export/README.md", "-F study=@1.dcm -F study=@2.dcm ...",
        "$(printf -- ' -F study=@%s' SERIES_FOLDER/*.dcm)", "the dots stand for the other slices",
    ),
    Smaller("docs/study.md", "seeds = [0, 1, 2, 3, 4]", 'seeds = [0]\nsamples = 60\narchitectures = ["effnet-lite0"]'),
    Smaller("docs/study.md", "fractions = [0.05, 0.1, 0.25, 0.5, 1.0]", "fractions = [1.0]"),
    Smaller("docs/study.md", "controls = true", "controls = false"),
    Smaller("docs/study.md", "pretraining_seeds = [0, 1, 2]", "pretraining_seeds = [0]"),
    Smaller("docs/study.md", "steps = 2000", "steps = 1\nbatch = 2\nwarmup = 1\nhealth_every = 0\ntrackers = []"),
    Smaller("docs/study.md", 'manifest = "lesions.csv"', 'manifest = "lesions.csv"\nfolds = 2'),
    Smaller("docs/study.md", "--workers 8", "--workers 2"),
    Smaller("docs/study.md", '--size "64 64 64"', '--size "16 32 32"'),
)  # fmt: skip

ENDS = (
    Ends("README.md", 'OnnxClassifier("a.onnx", device="cuda")', "BackendError", "no GPU is here", unless="cuda"),
    Ends(
        "docs/training.md", "prostate-mim pretrain --manifest studies.csv --store store --out runs/a --resume", 2,
        "nobody stopped the run of the line above; run by tests/crash/test_resume.py",
    ),
)  # fmt: skip

APPENDED = {
    "pretrain": ("--steps", "2", "--batch", "4", "--health-every", "0", "--tracker", "none", *_SMALL_CROP),
    "finetune": ("--folds", "2", "--epochs", "3", "--inner-folds", "2", "--batch", "4", *_SMALL_CROP),
    "view": ("--out", "view.html"),  # and no browser is opened
}  # fmt: skip

NAMES = {
    "README.md": """
import torch
from torch import nn
from prostate_mim import FinetuneConfig
first, second = nn.Conv3d(1, 8, 3, stride=(2, 4, 4), padding=1), nn.Conv3d(8, 8, 3, stride=(2, 4, 4), padding=1)
network = nn.Sequential(first, nn.InstanceNorm3d(8), nn.ReLU(), second)
hidden_blocks = torch.rand(1, 4, 6, 6) < 0.6
voxels = torch.randn(1, 1, 16, 96, 96)
""",
    "docs/lesions.md": """
from prostate_mim.volume import read_mask, read_volume
t2w, label = read_volume("study.nii.gz"), read_mask("lesion.nii.gz")
x, y, z = (float(value) for value in t2w.centre_mm_lps)
""",
    "docs/study.md": """
from pathlib import Path
out, figures_folder = Path("runs/study"), Path("figures")
""",
}

CLAIMS = {
    "README.md": (
        "vector.ndim == 1 and vector.dtype == 'float32'",
        "len(run.folds) == 2",
        "features.dense().shape == (1, 8, 4, 6, 6)",
    ),
    "docs/masked-engine.md": ("logits.shape == plain.shape == (2, 2)",),
    "docs/models.md": ("three.encoder.in_channels == 3", "len(features.feature_info) == 3"),
    "docs/study.md": ("text.startswith('# ')", "any(figures_folder.glob('*.png'))"),
}

CONFIGURATIONS = {
    "docs/training.md": ("run.toml", "pretrain"),
    "docs/study.md": ("study.toml", "study"),
    "hub_cards/*/README.md": ("training.toml", "card"),
}

TABLES = Tables(
    NOT_RUN, SMALLER, ENDS, APPENDED, NAMES, CLAIMS, CONFIGURATIONS, {"export/README.md": "export"},
    {"export/README.md": ("fastapi", "python_multipart", "prometheus_client", "highdicom")},
)  # fmt: skip
