import pickle

from base.errors import (
    ArtifactError,
    ImageRefused,
    LookalikeError,
    RefusalReason,
    SourceError,
    UsageError,
)


def test_exit_codes() -> None:
    assert LookalikeError.exit_code == ImageRefused.exit_code == 3
    assert UsageError.exit_code == SourceError.exit_code == ArtifactError.exit_code == 2


def test_a_refusal_says_what_and_why() -> None:
    refused = ImageRefused(RefusalReason.TOO_SMALL, "the picture is 0x7")
    assert str(refused) == "the picture is 0x7 (too-small)"
    assert (refused.reason, refused.message) == (RefusalReason.TOO_SMALL, "the picture is 0x7")


def test_a_refusal_travels_to_other_processes() -> None:
    refused = pickle.loads(pickle.dumps(ImageRefused(RefusalReason.EMPTY, "the file is empty")))
    assert str(refused) == "the file is empty (empty)"


def test_reasons_are_stable() -> None:
    """They stand in errors tables that people keep."""
    assert {str(reason) for reason in RefusalReason} == {
        "empty",
        "not-an-image",
        "truncated",
        "corrupt",
        "too-many-pixels",
        "too-many-bytes",
        "too-small",
        "unreadable",
        "unsupported",
        "crashed",
        "timed-out",
    }


def test_a_parameter_is_named_where_it_is_one() -> None:
    assert UsageError("there is no such path").param is None
    named = pickle.loads(pickle.dumps(UsageError("k is 0; at least 1 is needed", param="k")))
    assert (str(named), named.param) == ("k is 0; at least 1 is needed", "k")
