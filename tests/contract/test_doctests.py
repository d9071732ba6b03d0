"""Examples in the docstrings of public names run, and every public name but an error has one."""

from __future__ import annotations

import doctest
import sys

import pytest

import hlfeat
import hlfeat.config.loading
import hlfeat.hear

# Public names without an example. Whoever writes one takes the name out of this list.
WITHOUT = {"FeatureBatch", "Statistics", "dump_config"}
# Their examples need a folder of features: tests/storage/test_examples.py.
ELSEWHERE = {"FeatureStore", "collate"}
OBJECTS = {
    **{name: getattr(hlfeat, name) for name in hlfeat.__all__ if name not in ELSEWHERE},
    "config_names": hlfeat.config.loading.config_names,
    "hear.load_model": hlfeat.hear.load_model,
    "hear.get_timestamp_embeddings": hlfeat.hear.get_timestamp_embeddings,
    "hear.get_scene_embeddings": hlfeat.hear.get_scene_embeddings,
}


def examples_of(name: str) -> list[doctest.DocTest]:
    """The tests in a name's docstring, and in those of its methods."""
    thing = OBJECTS[name]
    finder = doctest.DocTestFinder(exclude_empty=True)
    tests = finder.find(thing, name, module=sys.modules.get(getattr(thing, "__module__", "")), globs={name: thing})
    return [test for test in tests if test.examples]


@pytest.mark.parametrize("name", OBJECTS)
def test_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tests = examples_of(name)
    error = isinstance(OBJECTS[name], type) and issubclass(OBJECTS[name], Exception)
    assert tests or error or name in WITHOUT, f"{name}: its docstring has no example"
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    text: list[str] = []
    for test in tests:
        runner.run(test, out=text.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(text)
