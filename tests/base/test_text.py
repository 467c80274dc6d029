from base.text import MAX_CHOICES, did_you_mean, first_line, nearest, one_line


def test_a_message_of_many_lines_becomes_one() -> None:
    error = ValueError("  cannot read\n\tthe  header\n")
    assert one_line(error) == "cannot read the header"
    assert one_line(error, 6) == "cannot"


def test_a_first_line_leaves_the_context_out() -> None:
    error = ValueError("\nno such operator: Foo \n\n==> Context: Bad node\n")
    assert first_line(error) == "no such operator: Foo"
    assert first_line(error, 7) == "no such"


def test_an_exception_without_a_message_gives_its_class() -> None:
    assert one_line(MemoryError()) == first_line(MemoryError()) == "MemoryError"


def test_the_nearest_choice_is_named() -> None:
    assert nearest("bilinaer", ["area", "bilinear"]) == "bilinear"
    assert nearest("xyz", iter(["area", "bilinear"])) is None
    assert did_you_mean("bilinaer", {"area", "bilinear"}) == "; did you mean 'bilinear'?"


def test_where_no_choice_is_near_all_are_listed_up_to_a_limit() -> None:
    assert did_you_mean("xyz", {"bilinear", "area"}) == "; known: area, bilinear"
    many = [f"encoder-{number:02d}" for number in range(MAX_CHOICES + 3)]
    message = did_you_mean("xyz", many)
    assert message.endswith(f"{many[MAX_CHOICES - 1]} and 3 more")
