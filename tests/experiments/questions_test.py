"""The questions of a run lie in its folder, whatever a stranger's run.json says."""

import pytest

from experiments.harness import questions
from experiments.harness.errors import InputError


@pytest.mark.parametrize("data", ["x/../../secret", "", "abc", "G" * 64, "../" + "a" * 64])
def test_what_is_no_sha256_names_no_file(tmp_path, data):
    with pytest.raises(InputError, match="sha256 cannot be"):
        questions.path(tmp_path, data)


def test_a_sha256_names_a_file_of_the_folder(tmp_path):
    assert questions.path(tmp_path, "0" * 64).parent == tmp_path
