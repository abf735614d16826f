"""What a report says that its verdicts depend on."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from inversion.fingerprint import digest_of, fingerprint
from watermark import Pattern, RingKey, Verifier
from watermark.calibration import Calibration
from watermark.published_keys import tree_ring_key
from watermark.reports.configuration import agree, configuration
from watermark.transforms import Transform


@pytest.fixture
def fingerprinted_once(sapling, monkeypatch):
    own = fingerprint(sapling)
    monkeypatch.setattr("inversion.fingerprint.fingerprint", lambda model: own)


def test_a_configuration_names_what_verdicts_depend_on_and_no_secret(sapling, alice, fingerprinted_once):
    plain = Verifier(sapling, {"alice": alice}, decoder="encoder", steps=1)
    own = configuration(plain)
    assert len(own) == 40
    assert own == configuration(replace(plain, batch_size=1, workers=2))
    others = [
        replace(plain, keys={"alice": RingKey(bytes(32))}),
        replace(plain, keys={"alice": RingKey(alice.secret, Pattern("rings"))}),
        replace(plain, keys={"bob": alice}),
        replace(plain, fpr=1e-3),
        replace(plain, steps=2),
        replace(plain, decoder="anderson"),
        replace(plain, transforms=(Transform(),)),
        replace(plain, numbers=range(3)),
        replace(plain, keys={"alice": alice, "theirs": tree_ring_key(1, (4, 32, 32), radius=5)}),
        replace(plain, keys={"alice": alice, "theirs": tree_ring_key(1, (4, 32, 32), radius=6)}),
    ]
    every = [own, *map(configuration, others), configuration(plain, "other")]
    assert len({text[:16] for text in every}) == len(every)
    assert not any(agree(a, b) for i, a in enumerate(every) for b in every[:i])
    one, other = (
        configuration(replace(plain, keys={"theirs": tree_ring_key(seed, (4, 32, 32), radius=5)}))
        for seed in (1, 2)
    )
    assert one == other  # a digest of such a key would be one of its seed


def test_a_configuration_tells_models_apart_but_not_their_rounding(sapling, alice):
    plain = Verifier(sapling, {"alice": alice}, decoder="encoder", steps=1)
    own = configuration(plain)
    encode, decode = sapling.autoencoder.encode, sapling.autoencoder.decode

    def changed(by):
        autoencoder = replace(sapling.autoencoder, encode=lambda x: encode(x.roll(by, -1)), decode=decode)
        return configuration(replace(plain, model=replace(sapling, autoencoder=autoencoder)))

    assert agree(own, changed(0))
    assert not agree(own, changed(8))
    near = own[:16] + "".join(f"{(int(own[i : i + 2], 16) + 1) % 256:02x}" for i in range(16, 40, 2))
    assert agree(own, near) or "7f" in own
    assert not agree(own, "")


def test_calibrations_and_precisions_are_told_apart(sapling, monkeypatch):
    own = fingerprint(sapling)
    monkeypatch.setattr("inversion.fingerprint.fingerprint", lambda model: own)
    plain = Verifier(sapling, {"a": RingKey(bytes(32))}, decoder="encoder", steps=1)
    noise = np.random.default_rng(0).standard_normal((2, 4, 32, 32)).astype(np.float16)
    calibrated = [Calibration(plain.settings, own, n, ("a", "b")) for n in (noise, -noise)]
    every = [plain, *(replace(plain, calibration=made) for made in calibrated)]
    every.append(replace(plain, model=replace(sapling, dtype=torch.bfloat16)))
    assert len({configuration(verifier)[:16] for verifier in every}) == 4


def test_probes_agree_within_rounding():
    a = "0" * 16 + "00" * 12
    assert agree(a, a[:16] + "02" + "00" * 11)
    assert not agree(a, a[:16] + "03" + "00" * 11)


def test_the_digest_of_a_schedule_depends_on_levels_and_kind(sapling):
    schedule = sapling.schedule(4)
    moved = tuple((replace(a, alpha=0.9 * a.alpha), b) for a, b in schedule.steps)
    every = (schedule, replace(schedule, kind="sample"), replace(schedule, steps=moved))
    assert len({digest_of(one) for one in every}) == 3
