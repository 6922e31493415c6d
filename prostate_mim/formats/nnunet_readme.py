"""What lies beside initial weights for nnU-Net: how to use them, and what nnU-Net does otherwise than pretraining."""

from __future__ import annotations

from prostate_mim.spec import InputSpec

WEIGHTS = "initial_weights.pth"
ARCHITECTURE = "architecture.json"
README = "README.md"

_TEXT = """\
# Initial weights for nnU-Net v2: {name}

Revision `{revision}` of the encoder. **For research only; not a medical device.** The licence of the weights
is that of the encoder's model card: read there what they may be used for, and what they have seen.

| | |
|---|---|
| `{weights}` | for `nnUNetv2_train -pretrained_weights`; tensors only |
| `{architecture}` | the `architecture` of a plans configuration that they fit |

**Pretrained** are the {pretrained:,} parameters under `encoder.pretrained`; their features were compared with those of
the encoder before this file was written. **Random** are {random:,}: `encoder.stem`, which looks at full resolution,
and `decoder`, which is nnU-Net's own. They are part of the file because nnU-Net refuses one without them. Segmentation
layers are not: nnU-Net makes them for your classes.

## Use

Wherever nnU-Net trains or predicts with these weights, `prostate_mim` has to be installed beside it: the plans name a
class of it.

1. `nnUNetv2_plan_and_preprocess -d ID --no_pp` writes `nnUNetPlans.json` into the preprocessed folder of your data set.
2. Add this to its `configurations`, with the content of `{architecture}` in place of `null`:

   ```json
   "3d_prostate_mim": {{
     "inherits_from": "3d_fullres",
     "data_identifier": "nnUNetPlans_3d_prostate_mim",
     "spacing": {spacing},
     "patch_size": {size},
     "architecture": null
   }}
   ```

   That is the crop of pretraining. A larger patch works too, if it is a multiple of {multiple} (z, y, x); nnU-Net
   chose `batch_size` for the patch of `3d_fullres`. `transpose_forward` of the plans has to be `[0, 1, 2]`, as it is
   where slices are thicker than pixels.
3. `nnUNetv2_preprocess -d ID -c 3d_prostate_mim`
4. `nnUNetv2_train ID 3d_prostate_mim FOLD -pretrained_weights {weights}`

The images have {channels}. A training from scratch to compare with is step 4 without
`-pretrained_weights`. nnU-Net trains all weights alike, from a learning rate of 0.01; weights that shall stay
near their beginning need a trainer with a smaller one.

## What nnU-Net does otherwise

The encoder was pretrained on what `prostate_mim` prepares. nnU-Net prepares images in its own way, and features are
equal only for equal input:

| | pretraining | nnU-Net by default |
|---|---|---|
| orientation | rows to the Left, columns Posterior, slices Superior | as stored; store volumes that way |
| field of view | crop of {size_mm} mm (z, y, x) | the whole image, in patches |
| spacing | {spacing_mm} mm (z, y, x), linear, antialiased | the plans', cubic; thick slices by nearest neighbour |
| intensities | clipped to percentiles {low:g} to {high:g} of the crop, then z-scored | z-scored over the whole image |
| outside of the image | 0 after z-scoring | 0 after z-scoring |
"""


def nnunet_readme(
    name: str,
    revision: str,
    spec: InputSpec,
    *,
    in_channels: int,
    multiple_zyx: tuple[int, int, int],
    parameters: tuple[int, int],
) -> str:
    """The README of the folder, in Markdown.

    Args:
        name: of the encoder.
        revision: of its weights.
        spec: what it was pretrained on; spacing in mm, size in voxels.
        in_channels: C of the encoder's input; more than the spec's where others were added.
        multiple_zyx: what patch sizes must be multiples of, in voxels.
        parameters: how many are pretrained, and how many are random.
    """
    low, high = spec.clip_percentiles
    return _TEXT.format(
        name=name,
        revision=revision,
        weights=WEIGHTS,
        architecture=ARCHITECTURE,
        pretrained=parameters[0],
        random=parameters[1],
        spacing=list(spec.spacing_mm_zyx),
        size=list(spec.size_zyx),
        multiple=_times(multiple_zyx),
        channels=_channels(spec, in_channels),
        size_mm=_times(spec.size_mm_zyx),
        spacing_mm=_times(spec.spacing_mm_zyx),
        low=low,
        high=high,
    )


def _channels(spec: InputSpec, in_channels: int) -> str:
    if in_channels == 1:
        return f"one channel, {spec.channels[0]}"
    names = [*spec.channels, *["one of your own"] * (in_channels - len(spec.channels))]
    return f"{in_channels} channels in this order: {', '.join(names)}"


def _times(numbers: tuple[float, float, float]) -> str:
    return " x ".join(f"{number:g}" for number in numbers)
