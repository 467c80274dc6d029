import pytest

from base.errors import UsageError
from serving.collection.contract.keys import distinct_keys
from serving.collection.contract.search_limits import check_bounds


def test_keys_stay_in_order_and_a_text_is_not_a_list_of_them() -> None:
    assert distinct_keys(["b", "a", "b"]) == ["b", "a"]
    with pytest.raises(UsageError, match=r"keys is 'ab': give a list of keys, \['ab'\]"):
        distinct_keys("ab")


@pytest.mark.parametrize("k", [2.5, "3", True, [1]])
def test_k_is_a_whole_number(k: object) -> None:
    with pytest.raises(UsageError, match=r"k is .*a whole number is needed"):
        check_bounds(k, None)  # type: ignore[arg-type]


def test_a_least_score_is_a_number() -> None:
    with pytest.raises(UsageError, match=r"min_score is '0.5'; a number is needed"):
        check_bounds(3, "0.5")  # type: ignore[arg-type]
