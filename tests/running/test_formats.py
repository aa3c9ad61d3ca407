import pytest

from reflow_lightning.running.errors import ReflowError
from reflow_lightning.running.formats import FormatError, check_format


def test_a_state_without_a_number_is_of_the_first_version():
    assert check_format({"names": []}, newest=3, subject="things") == 0


@pytest.mark.parametrize("number", [0, 2, 3])
def test_numbers_up_to_the_newest_are_read(number):
    assert check_format({"format": number}, newest=3, subject="things") == number


def test_a_newer_number_is_an_error_of_its_own_kind():
    with pytest.raises(FormatError, match=r"these are things of format 4, .* reads up to 3: upgrade it, or save"):
        check_format({"format": 4}, newest=3, subject="things")
    assert issubclass(FormatError, ReflowError)
    assert issubclass(FormatError, ValueError)


@pytest.mark.parametrize("number", [True, -1, 1.0, "1", None])
def test_what_is_no_number_is_refused(number):
    with pytest.raises(ValueError, match="must be a whole number"):
        check_format({"format": number}, newest=3, subject="things")
