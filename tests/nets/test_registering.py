"""Networks of one's own: what is registered works everywhere by its name, what does not keep its word is refused."""

from __future__ import annotations

import doctest
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import prostate_mim
from prostate_mim import PreMIM, nets, register_encoder
from prostate_mim.errors import NotFoundError, UsageError
from prostate_mim.initialisations import initialise
from prostate_mim.nets import ARCHITECTURES, Encoder, build_encoder
from prostate_mim.nets.encoder import Between, unchanged
from prostate_mim.nets.registering import check_encoder
from prostate_mim.spec import InputSpec
from prostate_mim.study.config import ArmConfig, StudyConfig, TaskConfig

SMALL = InputSpec(size_zyx=(8, 16, 16))


class OrganEncoder(Encoder):
    """Two resolutions; the tests change one thing at a time."""

    strides, channels = ((1, 2, 2), (2, 2, 2)), (4, 8)

    def __init__(self) -> None:
        super().__init__(self.strides, self.channels)
        self.fine = nn.Conv3d(1, 4, 3, stride=(1, 2, 2), padding=1)
        self.coarse = nn.Conv3d(4, 8, 3, stride=2, padding=1)

    def forward(self, voxels: Tensor, between: Between = unchanged) -> list[Tensor]:
        fine = between(0, self.fine(voxels))
        return [fine, between(1, self.coarse(fine))]


@pytest.fixture(autouse=True)
def shipped() -> Iterator[None]:
    """The registry as it was, whatever a test adds."""
    known = dict(ARCHITECTURES)
    yield
    ARCHITECTURES.clear()
    ARCHITECTURES.update(known)


def refusal(builder: object, name: str = "organ-net") -> str:
    """What registering says; one line, and nothing is registered."""
    with pytest.raises(UsageError) as caught:
        register_encoder(name, builder)
    assert name not in ARCHITECTURES or name in nets._SHIPPED
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_docstring_runs() -> None:
    """The example, as it is written."""
    found = doctest.DocTestFinder().find(register_encoder, globs={})
    results = [doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(one) for one in found]
    assert sum(one.attempted for one in results) >= 6
    assert sum(one.failed for one in results) == 0
    assert "organ-net" in ARCHITECTURES


def test_a_release_of_it_is_read_back(tmp_path: Path) -> None:
    """PreMIM, its release, an initialisation; and torch's generator is not drawn from by registering."""
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    register_encoder("organ-net", OrganEncoder)
    assert torch.equal(torch.rand(1), expected)
    model = PreMIM("organ-net", SMALL, name="organ-net.mim").eval()
    folder = model.save_pretrained(tmp_path / "release")
    read = PreMIM.from_pretrained(folder)
    voxels = torch.randn(1, 1, 8, 16, 16)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(model(voxels), read(voxels), strict=True))
        assert initialise("random", "organ-net", spec=SMALL)(voxels)[-1].shape == (1, 8, 4, 4, 4)
        assert build_encoder("organ-net", 2)(torch.randn(1, 2, 8, 16, 16))[0].shape == (1, 4, 8, 8, 8)


def test_a_study_takes_it() -> None:
    """As the architecture of the study and of an arm; not before it is registered."""
    task = TaskConfig("t", "m.csv")
    arm = ArmConfig("a", "random", ("organ-net",))
    with pytest.raises(UsageError, match=r"architecture 'organ-net' is unknown \(known: resenc-s, .*register_encoder"):
        StudyConfig((task,), (arm,))
    register_encoder("organ-net", OrganEncoder)
    assert StudyConfig((task,), (arm,)).architectures_of(arm) == ("organ-net",)
    with pytest.raises(UsageError, match=r"did you mean 'organ-net'\? .*convnext-t, organ-net\)"):
        StudyConfig((task,), (ArmConfig("b", "random", ("organ-nett",)),))


def test_without_the_module_it_is_unknown(tmp_path: Path) -> None:
    """Another process that does not register it is told what to do; one that does reads the release."""
    register_encoder("organ-net", OrganEncoder)
    PreMIM("organ-net", SMALL, name="organ-net.mim").eval().save_pretrained(tmp_path / "release")
    del ARCHITECTURES["organ-net"]
    for read in (lambda: PreMIM.from_pretrained(tmp_path / "release"), lambda: initialise("random", "organ-net")):
        with pytest.raises(NotFoundError, match=r"'organ-net' is unknown .*import the module that registers it first"):
            read()
    register_encoder("organ-net", OrganEncoder)
    with pytest.raises(NotFoundError, match=r"did you mean 'organ-net'\? \(known: resenc-s, .*, organ-net\)"):
        build_encoder("organ-nat")


def test_names() -> None:
    """Those of the package stay what they are; a name has to fit into a release's."""
    assert "one of the package's own" in refusal(OrganEncoder, "resenc-s")
    for name in ("", "organ.net", "organ net", "../organ", "-organ", "organ\n", "o" * 65):
        assert "use at most 64 letters, digits" in refusal(OrganEncoder, name)
    register_encoder("o" * 64, OrganEncoder)  # the control
    register_encoder("Organ_net-2+", OrganEncoder)


def test_a_name_has_one_builder() -> None:
    """The same builder, or its definition executed again, is fine; another one is refused and the first one stays."""
    register_encoder("organ-net", OrganEncoder)
    register_encoder("organ-net", OrganEncoder)
    again = type("OrganEncoder", (OrganEncoder,), {"__qualname__": "OrganEncoder", "__module__": __name__})
    register_encoder("organ-net", again)
    assert ARCHITECTURES["organ-net"] is again
    for other in (type("Other", (OrganEncoder,), {"__module__": __name__}), lambda: OrganEncoder()):
        with pytest.raises(UsageError, match="registered already, with another builder"):
            register_encoder("organ-net", other)
        assert ARCHITECTURES["organ-net"] is again
    one, other = (lambda: OrganEncoder() for _ in range(2))  # two functions that only look alike
    register_encoder("organ-net-b", one)
    with pytest.raises(UsageError, match="registered already"):
        register_encoder("organ-net-b", other)


def test_a_script_that_is_also_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file under two modules' names, as a script and its import: one network. A second file defines another."""
    for name in ("net.py", "copy_of_net.py"):
        (tmp_path / name).write_text(SCRIPT)

    def load(file: str, module: str) -> object:
        spec = importlib.util.spec_from_file_location(module, tmp_path / file)
        assert spec is not None and spec.loader is not None
        made = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, module, made)
        spec.loader.exec_module(made)
        return made.OrganEncoder

    first, again = load("net.py", "net_as_a_script"), load("net.py", "net")
    assert first is not again and ARCHITECTURES["organ-net"] is again
    with pytest.raises(UsageError, match="registered already, with another builder"):
        load("copy_of_net.py", "copy_of_net")


def changed(**parts: object) -> Callable[[], Encoder]:
    """``OrganEncoder`` with other attributes or methods."""
    return type("Changed", (OrganEncoder,), parts)


def test_declared_and_given() -> None:
    """Channels, strides, number, kind and values of the features: what was declared and what came."""
    said = refusal(changed(channels=(4, 16)))
    assert (
        "resolution 1 is declared with 16 channels at stride 2 x 4 x 4, for 4 x 12 x 20 voxels (1, 16, 2, 3, 5)" in said
    )
    assert "returned (1, 8, 2, 3, 5)" in said
    for strides in (((1, 2, 2), (1, 2, 2)), ((2, 2, 2), (1, 2, 2)), ((2, 2, 1), (2, 2, 2)), ((1, 2, 2), (3, 2, 2))):
        assert "is declared with" in refusal(changed(strides=strides))
    assert "declares 3 resolutions (4 channels at 1 x 2 x 2, " in refusal(
        changed(strides=((1, 2, 2), (2, 2, 2), (2, 2, 2)), channels=(4, 8, 16))
    )
    assert "forward returned a Tensor; expected a list of 2" in refusal(
        changed(forward=lambda self, voxels, between=unchanged: between(0, self.fine(voxels)))
    )
    for value, says in ((torch.nan, "not finite"), (None, "torch.float16")):

        def forward(self: OrganEncoder, voxels: Tensor, between: Between = unchanged, value: float | None = value):
            found = OrganEncoder.forward(self, voxels, between)
            return [found[0], found[1].half() if value is None else found[1] * value]

        assert says in refusal(changed(forward=forward))
    register_encoder("organ-net", changed())  # the control


def test_what_fails_is_said_in_one_line() -> None:
    """No encoder, a builder with arguments, a network without ``between``, sizes that do not fit, nothing declared."""
    assert "the builder gave a Conv3d, expected an Encoder" in refusal(lambda: nn.Conv3d(1, 1, 1))
    assert "the builder is a OrganEncoder; give a class" in refusal(OrganEncoder())
    assert "the builder is a str; give a class" in refusal("organ_net.OrganEncoder")
    assert "the builder failed with TypeError: " in refusal(lambda size: OrganEncoder())
    assert "declares no resolution" in refusal(changed(strides=(), channels=()))
    assert "whole numbers of at least 1" in refusal(changed(strides=((1, 2, 2), (0, 2, 2))))
    assert "no crop of a study holds" in refusal(changed(strides=((64, 64, 64), (64, 64, 64))))
    said = refusal(changed(forward=lambda self, voxels: [self.fine(voxels)]))
    assert "forward failed on a volume of 4 x 12 x 20 voxels with TypeError: " in said and "between=unchanged" in said

    def two(self: OrganEncoder, voxels: Tensor, between: Between = unchanged) -> list[Tensor]:
        raise RuntimeError("first line\nsecond line")

    assert "RuntimeError: first line second line" in refusal(changed(forward=two))


def test_between_is_not_gone_past() -> None:
    """Mask tokens and saliency come in there; a layer that changes features afterwards is found too."""

    def never(self: OrganEncoder, voxels: Tensor, between: Between = unchanged) -> list[Tensor]:
        fine = self.fine(voxels)
        return [fine, self.coarse(fine)]

    def swapped(self: OrganEncoder, voxels: Tensor, between: Between = unchanged) -> list[Tensor]:
        fine = between(1, self.fine(voxels))
        return [fine, between(0, self.coarse(fine))]

    def in_place(self: OrganEncoder, voxels: Tensor, between: Between = unchanged) -> list[Tensor]:
        fine = between(0, self.fine(voxels))
        return [fine, between(1, self.coarse(fine.relu_()))]

    assert "called between for the resolutions [], expected each of [0, 1]" in refusal(changed(forward=never))
    assert "resolutions [1, 0]" in refusal(changed(forward=swapped))
    assert "resolution 0 is returned with other values" in refusal(changed(forward=in_place))


@pytest.mark.parametrize("name", ["resenc-s", "resnet10", "densenet121", "effnet-lite0", "convnext-a"])
def test_the_packages_own_networks_pass(name: str) -> None:
    """What is asked of others is true of these."""
    check_encoder(name, ARCHITECTURES[name])


SCRIPT = """
import sys
from prostate_mim import register_encoder
from prostate_mim.nets import Encoder
from prostate_mim.nets.encoder import unchanged
from torch import nn


class OrganEncoder(Encoder):
    def __init__(self):
        super().__init__([(1, 2, 2), (2, 2, 2)], [4, 8])
        self.fine = nn.Conv3d(1, 4, 3, stride=(1, 2, 2), padding=1)
        self.coarse = nn.Conv3d(4, 8, 3, stride=2, padding=1)

    def forward(self, voxels, between=unchanged):
        fine = between(0, self.fine(voxels))
        return [fine, between(1, self.coarse(fine))]


register_encoder("organ-net", OrganEncoder)

if __name__ == "__main__":
    from prostate_mim.study import read_study, run_study

    made = run_study(read_study(sys.argv[1]), sys.argv[2], engine="process", workers=1)
    print(made.done, made.missing, len(made.failures))
"""
STUDY = """
seeds = [0]
samples = 20
device = "cpu"
architectures = ["organ-net"]

[[tasks]]
name = "lesions"
manifest = "MANIFEST"
folds = 2
[tasks.spec]
size_zyx = [8, 16, 16]

[[arms]]
name = "random"
initialisation = "random"
"""


def test_a_study_in_processes(cohort: Path, tmp_path: Path) -> None:
    """Worker processes import the script again and so know the network: an arm is computed to its end."""
    pytest.importorskip("pyarrow", reason="the study's tables need pyarrow")
    (tmp_path / "study.toml").write_text(STUDY.replace("MANIFEST", cohort.as_posix()))
    (tmp_path / "organ_study.py").write_text(SCRIPT)
    command = [sys.executable, "organ_study.py", "study.toml", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["1", "0", "0"]
    assert json.loads(next((tmp_path / "out").glob("*.json")).read_text())


def test_it_is_public() -> None:
    """From the package itself and from ``nets``."""
    assert prostate_mim.register_encoder is nets.register_encoder
    assert "register_encoder" in prostate_mim.__all__ and "register_encoder" in nets.__all__
