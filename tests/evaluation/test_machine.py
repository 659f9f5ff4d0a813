"""The machine in words."""

import os
import platform

import torch

from foretell import __version__
from foretell.evaluation.machine import describe_machine, describe_versions, machine_name


def test_machine_is_named_with_the_cores_that_may_be_used():
    found = describe_machine()
    assert 1 <= int(found["cores"]) <= (os.cpu_count() or 1)
    assert platform.system() in found["system"]
    assert found["processor"] in machine_name()
    assert f"{found['cores']} cores" in machine_name()


def test_versions_are_those_installed():
    found = describe_versions()
    assert found["foretell"] == __version__
    assert found["torch"] == torch.__version__
    assert found["python"] == platform.python_version()
