"""What is shipped: the wheel has the named configurations, and the command finds them wherever it is installed."""

from __future__ import annotations

import subprocess
import sys
import zipfile

from hlfeat.config.json_schema import SCHEMA_FILE
from hlfeat.config.loading import config_names
from tests import helpers

ROOT = helpers.ROOT


def test_the_wheel_has_the_configurations(tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, ROOT]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as z:
        z.extractall(tmp_path / "site")
    code = "import hlfeat, hlfeat.cli.app; print(hlfeat.__file__); hlfeat.cli.app.app(['config', 'list'])"
    out = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site"), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert out[0] == str(tmp_path / "site/hlfeat/__init__.py")
    assert [line.split()[0] for line in out[1:]] == config_names()
    assert (tmp_path / "site/hlfeat/configs" / SCHEMA_FILE).is_file()
