from serving.protocols.layouts import Layouts

A, B = b"before1234behind", b"before5678behind"


def kept(*pairs: tuple[bytes, str]) -> Layouts[str]:
    layouts: Layouts[str] = Layouts()
    for data, value in pairs:
        layouts.keep(data, 6, 10, value)
    return layouts


def test_a_message_that_differs_in_its_tensor_alone_is_found() -> None:
    layouts = kept((A, "a"))
    for data in (A, B):
        layout = layouts.find(data)
        assert layout is not None and (layout.value, layout.begin) == ("a", 6)


def test_any_other_byte_is_another_message() -> None:
    layouts = kept((A, "a"))
    for data in (b"Before1234behind", b"before1234behinD", A + b"x", A[:-1], b""):
        assert layouts.find(data) is None


def test_several_of_one_length() -> None:
    other = b"BEFORE1234behind"
    layouts = kept((A, "a"), (other, "b"))
    assert [layout.value for layout in map(layouts.find, (A, other)) if layout] == ["a", "b"]


def test_what_is_kept_anew_takes_the_place_of_what_was() -> None:
    layouts = kept((A, "a"), (B, "b"))
    layout = layouts.find(A)
    assert layout is not None and layout.value == "b"


def test_of_one_length_the_last_are_kept() -> None:
    all_of_them = [b"%06d1234behind" % number for number in range(20)]
    layouts = kept(*((data, str(number)) for number, data in enumerate(all_of_them)))
    assert [layouts.find(data) is not None for data in all_of_them] == [False] * 12 + [True] * 8


def test_much_besides_the_tensor_is_not_kept() -> None:
    layouts: Layouts[str] = Layouts()
    long = b"b" * 2000 + b"1234" + b"c" * 100
    layouts.keep(long, 2000, 2004, "a")
    assert layouts.find(long) is None
