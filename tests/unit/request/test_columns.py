"""Whether the names that templates use are in the input."""

import pytest

from batchrun.core.request.carried import COLUMNS_MAX
from batchrun.core.request.columns import find, identifier
from batchrun.errors import UsageError


def _find(paths, rows, columns=(), offered=(), called=()):
    return find(
        {tuple(path.split(".")): "request.prompt" for path in paths},
        dict.fromkeys(columns, "request.image"),
        rows,
        offered=lambda name: name in offered,
        called=lambda _, part: part in called,
    )


ROWS = [{"id": 1, "meta": None}, {"id": 2, "meta": {"title": "a"}, "Product Name": "x", "2nd": 2}]


@pytest.mark.parametrize(
    ("paths", "more", "found"),
    [
        (["id"], {}, {"id": "id"}),
        (["meta", "meta.title"], {}, {"meta": "meta"}),
        (["Product_Name", "_2nd"], {}, {"Product_Name": "Product Name", "_2nd": "2nd"}),
        (["id", "range"], {"offered": ["range"]}, {"id": "id"}),
        ([], {"columns": ["Product Name"]}, {"Product Name": "Product Name"}),
        (["meta", "meta.items"], {"called": ["items"]}, {"meta": "meta"}),
    ],
)
def test_the_columns_behind_the_names(paths, more, found):
    """Each name has its column; functions of the language have none."""
    assert _find(paths, ROWS, **more) == found


@pytest.mark.parametrize(
    ("paths", "more", "words"),
    [
        (["idd"], {}, ["request.prompt", "'idd'", "did you mean id?", "are: meta, Product_Name"]),
        (["zzz"], {}, ["'zzz'", "does not have. The columns are"]),
        (["meta", "meta.titel"], {}, ["meta.titel", "did you mean title?", "The keys are: title"]),
        (["id", "id.x"], {}, ["id.x", "needs an object", "a number"]),
        (["meta", "meta.item"], {"called": ["item"]}, ["meta.item"]),
        (["meta", "meta.items"], {}, ["meta.items"]),
        ([], {"columns": ["foto"]}, ["request.image", "'foto'"]),
    ],
)
def test_what_is_missing_is_named(paths, more, words):
    """The message says who uses what, what is near, and what there is."""
    with pytest.raises(UsageError) as caught:
        _find(paths, ROWS, **more)
    for word in words:
        assert word in str(caught.value)


def test_a_name_that_two_columns_could_mean_is_refused():
    """`a b` and `a-b` are both `a_b`: neither is picked."""
    with pytest.raises(UsageError, match="a_b"):
        _find(["a_b"], [{"a b": 1, "a-b": 2}])


def test_where_a_column_is_always_null_its_keys_are_not_known():
    """No row speaks against the name, so it is let through."""
    assert _find(["m", "m.title"], [{"m": None}, {}]) == {"m": "m"}


def test_one_row_with_the_key_is_enough():
    """Rows without it do not count against it, before or after."""
    rows = [{"m": {}}, {"m": "text"}, {"m": {"k": 1}}, {"m": {}}]
    assert _find(["m", "m.k"], rows) == {"m": "m"}


def test_a_list_is_entered_by_number():
    """`items.0.name` looks into the list's first item."""
    rows = [{"items": []}, {"items": [{"name": 1}]}]
    assert _find(["items", "items.0.name"], rows) == {"items": "items"}
    with pytest.raises(UsageError, match=r"items\.0\.nam"):
        _find(["items", "items.0.nam"], rows)


def test_rows_are_read_only_until_everything_was_seen():
    """The sample costs one row where the first row has it all."""
    rows = iter([{"a": 1, "b": {"c": None}}, {"a": 1}])
    _find(["a", "b", "b.c"], rows)
    assert list(rows) == [{"a": 1}]


def test_data_used_as_keys_does_not_hide_a_column():
    """Beyond the first names only those that are looked for are kept, and they are found."""
    rows = ({f"key-{n}": 1} for n in range(3 * COLUMNS_MAX))
    assert _find(["a"], [*rows, {"a": 1}]) == {"a": "a"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a", "a"),
        ("Product Name", "Product_Name"),
        ("2nd", "_2nd"),
        ("评论", "评论"),
        ("a.b", "a_b"),
    ],
)
def test_identifiers(name, expected):
    """What cannot stand in an identifier becomes an underscore."""
    assert identifier(name) == expected


@pytest.mark.parametrize(
    ("names", "told"),
    [(["id;text"], "';'"), (["id\ttext"], "tabs"), (["id"], None), (["a;b", "c"], None)],
)
def test_columns_that_were_not_divided(names, told):
    """One name that looks like several is told as a wrong delimiter, and nothing else is."""
    with pytest.raises(UsageError) as caught:
        _find(["text"], [dict.fromkeys(names, "x")])
    assert ("one column" in str(caught.value)) == (told is not None)
    assert (told or "") in str(caught.value)


@pytest.mark.parametrize(
    ("name", "columns", "words"),
    [
        ("Artikel", ["Artikel-Nr", "Preis"], ["did you mean {{ Artikel_Nr }}?", "are: Preis"]),
        ("artikel_nr", ["Artikel-Nr"], ["did you mean {{ Artikel_Nr }}?"]),
        ("FRAGE", ["Frage", "x"], ["did you mean Frage?", "The other columns are: x"]),
        ("name", ["first name", "last name"], ["{{ first_name }} or {{ last_name }}"]),
        ("zzz", ["a b", "c"], ["The columns are: a_b, c", "a_b is the column 'a b'"]),
        ("zzz", ["Straße-Nr", "2nd"], ["Straße_Nr, _2nd"]),
    ],
)
def test_columns_are_named_as_templates_write_them(name, columns, words):
    """The nearest come first, in the spelling that a template needs, then the others."""
    with pytest.raises(UsageError) as caught:
        _find([name], [dict.fromkeys(columns, "x")])
    for word in words:
        assert word in str(caught.value)


def test_a_list_of_columns_is_bounded():
    """A table of thousands of columns does not flood the terminal."""
    with pytest.raises(UsageError) as caught:
        _find(["zzz"], [{f"column {n}": 1 for n in range(5000)}])
    assert len(str(caught.value)) < 2000 and "and 4,960 more" in str(caught.value)
