"""One pass through all scripts, for the tests of this folder."""

import pytest
import torch

from script_chain import Chain, make_chain


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """The outputs of all scripts that compute, in seconds."""
    torch.set_num_threads(1)
    return make_chain(tmp_path_factory.mktemp("workflow"))
