"""Every curve of the report: which numbers it shows, beside which baselines, and what they mean in plain words."""

from __future__ import annotations

from dataclasses import dataclass

Named = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Panel:
    """One picture of the report.

    Attributes:
        title: above it.
        lines: (key of metrics.jsonl, label) of each curve; the first is the headline figure.
        text: what it means.
        better: ``lower``, ``higher``, or "" where neither is.
        baselines: (key, label) of numbers to compare with, drawn as dashed lines.
        levels: (value, label) of fixed levels, drawn as dotted lines.
        logarithmic: the vertical axis.
        smoothed: draw a running mean over the single values.
        span: the vertical axis covers at least this, so that noise does not look like a trend; None fits the values.
        form: of the headline figure.
    """

    title: str
    lines: Named
    text: str
    better: str = ""
    baselines: Named = ()
    levels: tuple[tuple[float, str], ...] = ()
    logarithmic: bool = False
    smoothed: bool = False
    span: tuple[float, float] | None = None
    form: str = ".3f"

    @property
    def keys(self) -> tuple[str, ...]:
        """Of the curves, without the baselines."""
        return tuple(key for key, _ in self.lines)


def _error(region: str, where: str) -> Panel:
    return Panel(
        f"Error on hidden tissue {where}",
        ((f"health/error{region}", "network"),),
        "Mean squared error on hidden voxels of the watched studies, the same ones at every look, in units of each "
        "block's own variance. The block mean, about 1, knows each block's mean and nothing of its shape; "
        "interpolation from the visible voxels needs no training either. A useful network comes to lie below both. "
        "Where targets are normalised by block it is given each block's mean: compare it with the corrected "
        "interpolation, for an untrained network too lies below the other. An error at the block mean is usual early "
        "in a training; if it stays, look at the learning rate.",
        "lower",
        (
            (f"health/interpolation{region}", "interpolation"),
            (f"health/interpolation_centred{region}", "interpolation, mean corrected"),
            (f"health/unchanged{region}", "input as it is"),
            (f"health/block_mean{region}", "block mean"),
        ),
        span=(0.0, 1.1),
    )


def _loss(region: str, where: str) -> Panel:
    return Panel(
        f"Loss on hidden tissue {where}",
        ((f"health/loss{region}", "network"),),
        "This method does not predict voxels, so there is no error in image units: this is its own loss on hidden "
        "blocks of the watched studies, the same ones at every look.",
        "lower",
    )


TRAINING = (
    Panel(
        "Loss",
        (("loss", "loss"),),
        "What the optimiser lowers, at every step (pale) and as a running mean. Each step hides other blocks of other "
        "studies, so single values scatter. It should fall fast at first and slowly for a long time.",
        "lower",
        smoothed=True,
    ),
    Panel(
        "Gradient norm",
        (("gradient_norm", "gradient norm"),),
        "Length of the gradient before it is clipped. It should settle; growth over hundreds of steps, or many jumps "
        "by a factor of ten, comes before a training diverges. Then lower the learning rate.",
        logarithmic=True,
        smoothed=True,
        form=".3g",
    ),
    Panel(
        "Learning rate",
        (("learning_rate", "learning rate"),),
        "Warm-up, then a cosine down to 0. Nothing is to be judged here; it explains bends in the other curves.",
        form=".2e",
    ),
    Panel(
        "Throughput",
        (("studies_per_second", "crops per second"),),
        "Crops trained per second over all devices (pale: single steps). Dips are the loader, other users of the "
        "machine, or a checkpoint being written.",
        "higher",
        smoothed=True,
        span=(0.0, 0.0),
        form=".1f",
    ),
    Panel(
        "Waiting for data",
        (("wait_share", "share of the step"),),
        "Share of each step in which the device had nothing to do because the next batch was not ready. Near 0 the "
        "loader is hidden behind the step. Above 0.2, use a prepared store, more workers, or several masks per crop.",
        "lower",
        smoothed=True,
        span=(0.0, 0.25),
        form=".1%",
    ),
)

RESTORING = (
    _error("_gland", "inside the gland"),
    _error("_outside", "outside the gland"),
    _error("", "everywhere"),
    _loss("_gland", "inside the gland"),
    _loss("_outside", "outside the gland"),
    _loss("", "everywhere"),
    Panel(
        "Variety of predictions",
        (("health/output_spread", "network"),),
        "How much predictions differ from place to place, as a share of how much the truth does. 0 is a decoder that "
        "says the same everywhere (a collapse); 1 is as varied as the truth. It starts low and grows with skill.",
        "higher",
        levels=((0.01, "collapse"),),
        span=(0.0, 0.5),
    ),
)

MATCHING = (
    Panel(
        "Views matched",
        (("health/views_matched", "network"),),
        "Each fixed pair of views is two crops of one study, augmented by themselves as in training. How often a "
        "view's partner is nearer than every view of other patients. A low figure that stays is a task too hard: "
        "weaken the augmentation or the shift.",
        "higher",
        (("health/views_chance", "chance"),),
        span=(0.0, 1.0),
    ),
    Panel(
        "Alignment",
        (("health/alignment", "network"),),
        "Mean squared distance between the two views of a pair, on the unit sphere (Wang and Isola 2020): 0 is the "
        "same, 2 unrelated. It means something only beside uniformity: a network that gives one vector for all "
        "studies is perfectly aligned.",
        "lower",
        span=(0.0, 2.0),
    ),
    Panel(
        "Uniformity",
        (("health/uniformity", "network"),),
        "How evenly the views of different patients fill the unit sphere (Wang and Isola 2020): 0 where all fall "
        "together, about -4 where they are unrelated. It should fall well below 0 and stay there.",
        "lower",
        levels=((0.0, "all alike"),),
        span=(-4.0, 0.0),
        form=".2f",
    ),
    Panel(
        "Loss on fixed views",
        (("health/view_loss", "network"),),
        "The training's own loss on the fixed views. It depends on how many views there are, so compare it within a "
        "run.",
        "lower",
    ),
)

KNOWING = (
    Panel(
        "Finding the gland",
        (("health/gland_auroc", "linear probe"),),
        "A linear classifier is fitted on frozen features of single cells (6 x 4 x 4 mm by default) to tell gland from "
        "the rest, and asked about studies it has not seen. Windows lie at random offsets from the gland, so the "
        "place of a cell hardly helps: the dashed line is what the place alone gives.",
        "higher",
        (("health/gland_position_auroc", "place alone"),),
        ((0.5, "chance"),),
        span=(0.45, 1.0),
    ),
    Panel(
        "Telling lesions apart",
        (("health/linear_auroc", "linear probe"), ("health/neighbour_auroc", "nearest neighbours")),
        "AUROC on the labelled studies: a linear classifier, and the vote of the nearest neighbours, on frozen "
        "embeddings, with no patient in two folds. With few lesions the figure is uncertain by 0.1 and more; look at "
        "its trend.",
        "higher",
        levels=((0.5, "chance"),),
        span=(0.4, 1.0),
    ),
    Panel(
        "Recognising the scanner",
        (("health/centre_accuracy", "linear probe"),),
        "How often a linear classifier tells from the embedding at which centre a study was made (mean recall over "
        "centres, out of fold). An encoder of anatomy should not know: what it knows of scanners, classifiers "
        "trained on it can mistake for disease.",
        "lower",
        (("health/centre_chance", "chance"),),
        span=(0.0, 0.6),
    ),
)

COLLAPSING = (
    Panel(
        "Effective rank of embeddings",
        (("health/rank", "RankMe"), ("health/rank_centred", "without the common mean")),
        "In how many directions embeddings of different crops spread: RankMe (Garrido et al. 2023), and the same "
        "without the mean that all embeddings share. Both often fall while a network learns. Near 1 all studies look "
        "alike to it, and no classifier can use it.",
        baselines=(("health/rank_centred_first", "first look, without the mean"),),
        levels=((1.0, "all alike"),),
        logarithmic=True,
        form=".1f",
    ),
    Panel(
        "Variance of embeddings",
        (("health/variance", "variance per dimension"),),
        "How much embeddings differ between crops, averaged over their dimensions. Its size means little; a fall by a "
        "factor of a thousand from its first value means that the network has stopped telling studies apart.",
        baselines=(("health/variance_first", "first look"),),
        logarithmic=True,
        form=".2e",
    ),
)

SECTIONS: tuple[tuple[str, str, tuple[Panel, ...]], ...] = (
    ("Can it restore hidden tissue?", "Fixed studies, fixed hidden blocks: only the network changes.", RESTORING),
    (
        "Can it match views?",
        "Contrastive training: nothing is hidden, so there is nothing to restore and no picture of it.",
        MATCHING,
    ),
    ("What do its features know?", "Frozen features, simple classifiers, patients never split.", KNOWING),
    ("Has it collapsed?", "A network can reach a low loss and give the same for every study.", COLLAPSING),
    ("Training", "What the optimiser sees.", TRAINING),
)
