"""Importing nbnorm: it compiles nothing, changes nothing and starts nothing.

How long it takes is measured by benchmarks/suites/startup.py.
"""

from __future__ import annotations

import ast
import json
import os
import pkgutil
from pathlib import Path
from typing import Any

import pytest

import nbnorm
from nbnorm.lazy import names_in_stub
from tests.jit.processes import PACKAGE, python


def observed(code: str, **variables: Any) -> Any:
    """What a script prints as JSON."""
    return json.loads(python("-c", code, **variables)[0])


def test_it_compiles_nothing(tmp_path):
    code = """
import json
import numba, numpy as np
from numba.core import event
with event.install_recorder("numba:compile") as during_import:
    import nbnorm
    from nbnorm import functional, kernels, layers
with event.install_recorder("numba:compile") as during_call:
    nbnorm.batch_norm_inference(np.ones((2, 2)), np.ones(2), np.ones(2))
print(json.dumps([len(during_import.buffer), len(during_call.buffer)]))
"""
    during_import, during_call = observed(code, NUMBA_CACHE_DIR=tmp_path)
    assert during_import == 0
    assert during_call > 0  # so the events would have been seen


def test_it_imports_next_to_nothing():
    """What it takes, half a millisecond, any other module of the standard library would double."""
    code = """
import os, sys
before = set(sys.modules)
import nbnorm
print(*set(sys.modules) - before)
"""
    found = python("-S", "-c", code)[0].split()  # no site: what it imports would not count
    packages = {name.partition(".")[0] for name in found}
    assert packages <= {"nbnorm", "__future__", "importlib", "warnings"}


def test_it_changes_no_setting_and_starts_no_thread(tmp_path):
    code = """
import json, os, threading, warnings
import numba, numpy as np
from numba.core import config

def threads():
    tasks = "/proc/self/task"
    return len(os.listdir(tasks)) if os.path.isdir(tasks) else threading.active_count()

def state():
    settings = {name: repr(value) for name, value in vars(config).items() if name.isupper()}
    return {
        **settings,
        "environment": dict(os.environ),
        "errors": np.geterr(),
        "warnings": len(warnings.filters),
        "threads": threads(),
    }

before = state()
import nbnorm, nbnorm.layers
after = state()
changed = [name for name in before if before[name] != after[name]]
try:
    layer = numba.threading_layer()
except ValueError:
    layer = None
print(json.dumps([len(before), changed, layer]))
"""
    names, changed, layer = observed(code, NUMBA_CACHE_DIR=tmp_path)
    assert names > 50
    assert (changed, layer) == ([], None)
    assert list(tmp_path.iterdir()) == []


def test_threads_may_ask_for_names_at_the_same_time():
    """Each finds its module whole, whichever the others are importing."""
    code = """
import sys, threading, time
from importlib.machinery import PathFinder

class SlowPackage:
    def find_spec(self, name, path, *_):
        if name == "nbnorm.kernels":
            spec = PathFinder.find_spec(name, path)
            spec.loader.create_module = create_module
            return spec

def create_module(_):
    package_is_locked.set()
    time.sleep(1.0)

package_is_locked = threading.Event()
sys.meta_path.insert(0, SlowPackage())
errors = []

def ask(module, name):
    try:
        exec(f"from {module} import {name}")
    except BaseException as error:
        errors.append(repr(error))

asked = [
    ("nbnorm.kernels", "forward_planes"),
    ("nbnorm", "batch_norm_forward"),
    ("nbnorm", "dense_forward"),
    ("nbnorm", "conv2d_forward"),
    ("nbnorm.functional.arguments", "resolve_activation"),
    ("nbnorm.kernels.activations", "ReLU"),
    ("nbnorm.layers", "Conv2d"),
]
threads = [threading.Thread(target=ask, args=one) for one in asked]
threads[0].start()
package_is_locked.wait()
for thread in threads[1:]:
    thread.start()
for thread in threads:
    thread.join()
assert not errors, errors
"""
    python("-c", code)


@pytest.mark.parametrize("package", [nbnorm, nbnorm.kernels], ids=lambda package: package.__name__)
def test_type_checkers_see_the_names_that_there_are(package):
    seen = names_in_stub(package.__name__)
    stub = ast.parse(Path(package.__file__).with_suffix(".pyi").read_text())
    (exported,) = (node.value for node in stub.body if isinstance(node, ast.Assign))
    assert set(package.__all__) == set(ast.literal_eval(exported)) <= set(seen)
    for name in package.__all__:
        assert getattr(package, name) is pkgutil.resolve_name(seen[name])


def test_modules_import_nothing_by_a_lazy_name():
    """A thread that does holds its module, and waits for one that holds `importing`."""
    packages = {package.__name__: set(package.__all__) for package in (nbnorm, nbnorm.kernels)}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ImportFrom) and node.module in packages:
                names = {alias.name for alias in node.names}
                assert not names & packages[node.module], (path, node.lineno)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_while_a_thread_imports_leaves_no_module_locked():
    code = """
import os, sys, threading, time
import nbnorm

class SlowDisk:
    def find_spec(self, name, *_):
        if name == "nbnorm.functional.batch_norm":
            importing.set()
            time.sleep(0.5)

importing = threading.Event()
sys.meta_path.insert(0, SlowDisk())
thread = threading.Thread(target=lambda: nbnorm.batch_norm_forward)
thread.start()
importing.wait()
child = os.fork()
if child == 0:
    nbnorm.batch_norm_forward
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
thread.join()
"""
    python("-W", "ignore", "-c", code)
