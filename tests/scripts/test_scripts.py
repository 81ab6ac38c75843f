"""Every script is thin, imports without doing its job, and has a rule of its name."""

import pytest

from script_chain import SCRIPTS, script

NAMES = sorted(path.stem for path in SCRIPTS.glob("*.py"))


@pytest.mark.parametrize("name", NAMES)
def test_a_script_is_imported_without_doing_its_job(name: str) -> None:
    module = script(name)
    assert module.__doc__
    assert len((SCRIPTS / f"{name}.py").read_text().splitlines()) <= 80
    if name != "download_model":  # one call of one function
        assert callable(getattr(module, name))


def test_each_script_has_a_rule_of_its_name() -> None:
    rules = "".join(path.read_text() for path in SCRIPTS.parents[1].glob("rules/*.smk"))
    for name in NAMES:
        assert f"rule {name}:" in rules
        assert f'"../workflow/scripts/{name}.py"' in rules
