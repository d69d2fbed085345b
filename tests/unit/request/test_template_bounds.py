"""What a template cannot do, whatever a row holds or whoever wrote the template."""

import pytest

from batchrun.core.request.template import AMOUNT_MAX, Templates, plain
from batchrun.errors import RowError, UsageError


def _render(source, **row):
    context = {name: plain(value, name) for name, value in row.items()}
    return Templates().text("request.prompt", source)(context)


@pytest.mark.parametrize(
    "source",
    [
        "{{ x.__class__ }}",
        "{{ x['__class__'] }}",
        "{{ d.__class__.__mro__ }}",
        "{{ d | attr('__class__') }}",
        "{{ items.__init__.__globals__ }}",
        "{{ items.append.__self__ }}",
        "{{ namespace.__class__ }}",
        "{{ range.__call__.__globals__ }}",
        "{{ self.__dict__ }}",
        "{% for c in items.__class__.__subclasses__() %}{{ c }}{% endfor %}",
    ],
)
def test_no_attribute_of_python_is_reached(source):
    """What begins with an underscore is not there, however it is asked for."""
    try:
        text = _render(source, x="text", d={"a": 1}, items=[1, 2])
    except RowError:
        return
    assert text == ""


@pytest.mark.parametrize("tag", ["include", "import", "extends"])
def test_no_file_is_read(tag):
    """Templates cannot name one another, nor a file."""
    rest = " as x" if tag == "import" else ""
    with pytest.raises(UsageError):
        _render(f"{{% {tag} '/etc/passwd'{rest} %}}")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ 'x' * n }}", "too large"),
        ("{{ [1] * n }}", "too large"),
        ("{% for i in range(n) %}x{% endfor %}", "too many"),
        ("{{ 10 ** n }}", "unable to calculate"),
        ("{{ x | indent(n) }}", "amounts up to 10,000"),
        ("{{ x | indent(width=n) }}", "amounts up to 10,000"),
        ("{{ items | batch(n, 'fill') }}", "amounts up to 10,000"),
        ("{{ items | slice(n) }}", "amounts up to 10,000"),
        ("{{ items | tojson(indent=n) }}", "amounts up to 10,000"),
        ("{{ x | format(1) }}", "amounts up to 10,000"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion limit"),
        ("{% for i in items recursive %}{{ loop(items) }}{% endfor %}", "recursion limit"),
        (
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "out of fuel",
        ),
    ],
)
def test_data_chooses_no_amount_without_bounds(source, words):
    """A row whose values ask for billions of something fails alone, and at once."""
    with pytest.raises(RowError, match=words):
        _render(source, n=10**10, x="%1000000000d", items=[1, 2, 3])


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ x | indent(2, true) }}", "  a\n  b"),
        ("{{ x | indent(width=2, first=true) }}", "  a\n  b"),
        ("{{ x | indent(n) }}", f"a\n{' ' * AMOUNT_MAX}b"),
        ("{{ nothing | indent(2) }}{{ nothing | batch(2) }}", ""),
        ("{{ items | batch(2, 'z') }}", '[[1,2],[3,"z"]]'),
        ("{{ items | slice(2) }}", "[[1,2],[3]]"),
        ("{{ '%s-%5d' | format(x, 3) }}", "a\nb-    3"),
        ("{{ items | tojson(indent=1) }}", "[\n 1,\n 2,\n 3\n]"),
        ("{% for i in range(99999) %}{{ i }}{% endfor %}", "".join(map(str, range(99999)))),
    ],
)
def test_usual_amounts_are_as_ever(source, text):
    """The bounded filters do what the library's own do."""
    assert _render(source, x="a\nb", n=AMOUNT_MAX, items=[1, 2, 3]) == text
