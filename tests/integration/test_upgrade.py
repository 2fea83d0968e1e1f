"""A sweep that drorae 0.1.0 (commit 0f36692) began is known again, and finished; so is one whose images have moved."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from begun import BEGUN, read_tree
from records import empty_records

from drorae.config import Runtime, config_hash, load_config, override
from drorae.errors import UserError
from drorae.losses.discriminator import discriminator_fingerprint
from drorae.models.encoder import load_encoder
from sweeps.driver.run import SweepOutcome, resume_sweep, run_sweep
from sweeps.resources import Resources
from sweeps.spec import SweepSpec, expand


def results(folder: Path) -> dict[int, dict[str, float]]:
    """Metrics by width."""
    found = [json.loads(path.read_text()) for path in folder.glob("trials/*/result.json")]
    return {tree["expert_hidden_dim"]: tree["metrics"] for tree in found}


def draw_encoder_here(begun: Path) -> None:
    """Has the folder say what this CPU draws for its random encoder: the last bits differ by instruction set.

    It was made with AVX-512, and such weights are known by their hash.
    """
    trial = begun / "trials" / "545f65be55d2"
    known = json.loads((trial / "inputs.json").read_text())["encoder"]
    here = load_encoder(load_config(trial / "config.json").encoder, "cache").fingerprint
    for path in begun.rglob("*.json"):
        path.write_text(path.read_text().replace(known, here))


def go_on(spec: SweepSpec) -> SweepOutcome:
    runtime = Runtime(device="cpu", threads=1, cache_dir="cache", log_steps=1)
    return run_sweep(spec, runtime=runtime, resources=Resources(max_concurrent=1), quiet=True)


def test_the_sweep_is_finished_and_what_was_done_is_left_alone(begun: Path) -> None:
    draw_encoder_here(begun)
    before = results(begun)
    empty_records(begun.parent)
    outcome = resume_sweep(begun, quiet=True)
    assert outcome.counts == {"finished": 4}
    after = results(begun)
    assert sorted(after) == [4, 8, 16, 32] and {width: after[width] for width in before} == before
    spec = SweepSpec.from_dict(read_tree(begun)["spec"])
    keys = [config_hash(config) for config in expand(spec)]
    assert sorted(path.name for path in begun.glob("trials/*")) == sorted(keys)
    assert outcome.trials_csv.read_text().count("finished") == 4
    assert all(f"\n{key}," in outcome.trials_csv.read_text() for key in keys)

    # The same images at another place: nothing is trained, and the trials say where they are now.
    shutil.move("images.npz", "elsewhere.npz")
    moved = dataclasses.replace(spec, base=override(spec.base, "images.path", "elsewhere.npz"))
    assert go_on(moved).counts == {"finished": 4}
    assert results(begun) == after
    assert {load_config(path).images.path for path in begun.glob("trials/*/config.json")} == {"elsewhere.npz"}

    # Other images are another sweep's.
    import numpy as np

    arrays = dict(np.load("elsewhere.npz"))
    np.savez("other.npz", **{name: 255 - pixels for name, pixels in arrays.items()})
    other = dataclasses.replace(spec, base=override(spec.base, "images.path", "other.npz"))
    with pytest.raises(UserError, match=r"images_train \(other.npz\) was .* put it back, or choose another") as raised:
        go_on(other)
    assert "\n" not in str(raised.value) and results(begun) == after


def test_a_field_of_a_newer_version_is_named(begun: Path) -> None:
    tree = read_tree(begun)
    tree["spec"]["base"]["fusion"]["gate"] = 1
    (begun / "sweep.json").write_text(json.dumps(tree))
    with pytest.raises(UserError, match=r"fusion.gate: no such field; .* made by a newer drorae") as raised:
        resume_sweep(begun, quiet=True)
    assert "\n" not in str(raised.value)


def test_fields_that_an_earlier_version_lacked_have_their_defaults(begun: Path) -> None:
    tree = read_tree(begun)
    del tree["spec"]["base"]["probe"], tree["spec"]["base"]["fusion"]["router_input"]
    (begun / "sweep.json").write_text(json.dumps(tree))
    assert expand(SweepSpec.from_dict(read_tree(begun)["spec"])) == expand(
        SweepSpec.from_dict(read_tree(BEGUN)["spec"])
    )


def test_addresses_in_the_cache_are_those_of_the_first_version_and_know_a_discriminator_by_its_weights(
    begun: Path,
) -> None:
    """The decoder's address, of the fingerprints that the sweep's trials kept, is the one that they name."""
    from drorae.trial.shared import decoder_address

    trial = begun / "trials" / "545f65be55d2"
    known, config = json.loads((trial / "inputs.json").read_text()), load_config(trial / "config.json")

    def address(path: str, heard: dict[str, str]) -> str:
        return decoder_address(override(config, "discriminator.path", path), known | heard)

    assert address("", {}) == f"decoders/{known['phase1_decoder']}"
    assert address("/here/dino.pth", {"discriminator": "a"}) == address("/there/dino.pth", {"discriminator": "a"})
    assert address("/here/dino.pth", {"discriminator": "a"}) != address("/here/dino.pth", {"discriminator": "b"})


def test_a_discriminator_read_from_a_file_has_a_fingerprint_where_it_is_heard(begun: Path) -> None:
    from safetensors.torch import save_file

    config = load_config(begun / "trials" / "545f65be55d2" / "config.json")
    config = override(override(config, "discriminator.weights", "file"), "discriminator.path", "dino.safetensors")
    assert discriminator_fingerprint(config) == {}, "no adversarial term"
    config = override(config, "objective.gan_weight", 0.75)
    found = []
    for value in (0.0, 1.0):
        save_file({"weight": torch.full((2,), value)}, "dino.safetensors")
        found.append(discriminator_fingerprint(config)["discriminator"])
    assert found[0] != found[1]
    save_file({"weight": torch.zeros(2)}, "moved.safetensors")
    assert (
        discriminator_fingerprint(override(config, "discriminator.path", "moved.safetensors"))["discriminator"]
        == found[0]
    )
