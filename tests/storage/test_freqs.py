"""Frequencies of bands: in hlfeat.yaml, in the store and in inspect; folders of earlier versions have none."""

from __future__ import annotations

import re

import numpy as np
import pytest
import soundfile

import hlfeat as package
from tests import helpers


@pytest.fixture
def folder(tmp_path):
    """Features of pitch-salience."""
    (tmp_path / "clips").mkdir()
    soundfile.write(tmp_path / "clips/a.wav", helpers.tone(0.3, 16000), 16000)
    return extracted(tmp_path, "pitch-salience")


def extracted(tmp_path, name, *overrides):
    config = package.load_config(name, list(overrides))
    package.extract(config, [tmp_path / "clips"], tmp_path / name, package.Options(workers=1, quiet=True))
    return tmp_path / name


def forget(folder):
    """As an earlier version has written it."""
    path = folder / "hlfeat.yaml"
    text, n = re.subn(r"(?m)^  freqs: \[[^]]*\]\n", "", path.read_text())
    assert n == 1
    path.write_text(text)


def test_rows_are_named_in_hertz(folder, invoke):
    notes = 27.5 * 2 ** (np.arange(97) / 12)
    np.testing.assert_allclose(package.FeatureStore(folder).freqs, notes, rtol=1e-5)
    assert "; bands at 27.5 to 7040 Hz\n" in invoke("inspect", folder).stdout
    table = invoke("inspect", "--bands", folder).stdout
    assert re.search(r"(?m)^ +channel +band +Hz +mean", table)
    assert re.search(r"(?m)^ +0 +24 +110 ", table)  # A2


@pytest.mark.parametrize(
    ("name", "overrides"),
    [("log-mel", ["output.pool=mean"]), ("eleaf-pcen", ["stack=[{layer: projection, features: 3}]"])],
)
def test_rows_without_frequencies_have_none(folder, tmp_path, invoke, name, overrides):
    other = extracted(tmp_path, name, *overrides)
    assert package.FeatureStore(other).freqs is None
    done = invoke("inspect", "--bands", other)
    assert done.returncode == 0
    assert not re.search(r"bands at|band +Hz", done.stdout)


def test_a_pool_of_bands_has_their_means(folder, tmp_path):
    other = extracted(tmp_path, "log-mel", "stack=[{layer: pool, bands: 2}]")
    bands = package.LogMel(80).centre_freqs().double().numpy()
    np.testing.assert_allclose(package.FeatureStore(other).freqs, bands.reshape(-1, 2).mean(1), rtol=1e-5)


def test_folders_of_earlier_versions_are_read_and_continued(folder, tmp_path, invoke):
    kept = extracted(tmp_path, "log-mel")
    forget(folder)
    assert package.FeatureStore(folder).freqs is None
    assert not re.search(r"bands at|band +Hz", invoke("inspect", "--bands", folder).stdout)
    assert invoke("inspect", "--verify", folder).returncode == 0
    soundfile.write(tmp_path / "clips/b.wav", helpers.tone(0.3, 16000), 16000)
    again = extracted(tmp_path, "pitch-salience")
    assert len(package.FeatureStore(again)) == 2
    assert len(package.FeatureStore(kept).freqs) == 80


def test_a_folder_with_them_and_one_without_go_together(folder, tmp_path):
    (tmp_path / "other/clips").mkdir(parents=True)
    soundfile.write(tmp_path / "other/clips/c.wav", helpers.tone(0.3, 16000), 16000)
    other = extracted(tmp_path / "other", "pitch-salience")
    forget(other)
    assert len(package.FeatureStore(folder, other)) == 2
    assert package.FeatureStore(other, folder).freqs is None
