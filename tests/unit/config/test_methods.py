"""What holds for every method that is provided."""

import subprocess
import sys

import pytest

from terse.config.methods import methods


def test_the_configuration_and_all_specs_need_nothing_heavy() -> None:
    code = (
        "import sys, terse.config; from terse.config.methods import methods; methods();"
        "print([m for m in ('torch', 'numpy', 'pandas', 'h5py') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", sorted(methods()))
def test_a_spec_names_keys_that_its_settings_have(name: str) -> None:
    spec = methods()[name]
    keys = set(spec.settings.model_fields)
    assert spec.name == name
    assert spec.conduct_keys <= keys
    assert spec.evaluation_keys <= keys
    assert not spec.conduct_keys & spec.evaluation_keys
