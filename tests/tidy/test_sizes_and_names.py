"""Sizes, names and docstrings of the package, and what no file of the repository may hold."""

import ast
import re
from pathlib import PurePath

FUNCTION_LINES_MAX = 80

# Where splitting would send the reader back and forth: the name, and the reason in a few words.
LONG_FUNCTIONS: dict[str, str] = {}

EMPTY_NAMES = {
    "base",
    "common",
    "helper",
    "helpers",
    "manager",
    "managers",
    "misc",
    "util",
    "utils",
}

# Written in pieces, so that this file does not hold what it looks for.
MARKER = re.compile(
    r"#.*\b(?:" + "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"]) + r")\b(.*)"
)
REASON = re.compile(r":\s+\S+(?:\s+\S+){2,}")
FOREIGN = re.compile(
    r"(?<![\w.$}-])/(?:wo" + r"rk|fa" + r"rm)/"
    r"|py" + r"pi\.org|python" + r"hosted\.org|registry\.np" + r"mjs|deb\.deb" + r"ian\.org"
)


def functions(module):
    """Yield the qualified name and the node of every function, methods and nested ones too."""

    def walk(node, prefix):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                name = f"{prefix}.{child.name}"
                if not isinstance(child, ast.ClassDef):
                    yield name, child
                yield from walk(child, name)
            else:
                yield from walk(child, prefix)

    yield from walk(module.tree, module.name)


def undocumented(module):
    """Describe every public module, class, function and method without a docstring."""
    found = []

    def visit(node, name):
        if ast.get_docstring(node) is None:
            found.append(f"{module.path}:{getattr(node, 'lineno', 1)} {name}")
        for child in node.body:
            if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            decorators = {ast.unparse(decorator) for decorator in child.decorator_list}
            repeated = any(
                decorator.endswith((".setter", "overload", "override")) for decorator in decorators
            )
            if child.name.startswith("_") or repeated:
                continue
            if isinstance(child, ast.ClassDef):
                visit(child, f"{name}.{child.name}")
            elif ast.get_docstring(child) is None:
                found.append(f"{module.path}:{child.lineno} {name}.{child.name}")

    visit(module.tree, module.name)
    return found


def misjudged(lines, limit, named):
    """What is longer than the limit and not named, and what is named and not longer."""
    long = {name: count for name, count in lines.items() if count > limit and name not in named}
    short = [name for name in named if lines.get(name, 0) <= limit]
    return long, short


def test_a_function_fits_on_a_screen_or_two(package_and_harness):
    """No function grows past the limit unless it is named, and no name outlives its reason. What
    counts is what it does: a long list of keywords is none of that.
    """
    lines = {
        name: node.end_lineno - node.body[0].lineno + 1
        for module in package_and_harness
        for name, node in functions(module)
    }
    long, short = misjudged(lines, FUNCTION_LINES_MAX, LONG_FUNCTIONS)
    assert not long, (
        f"A function of more than {FUNCTION_LINES_MAX} lines does several things: give each a "
        f"name, or name the function in LONG_FUNCTIONS with the reason: {long}"
    )
    assert not short, f"An exception that no longer is one: take it out of LONG_FUNCTIONS: {short}"


def test_lengths_are_judged_both_ways():
    """A long piece without a name is reported, and so is a name without a long piece."""
    lines = {"long": 11, "named": 11, "short": 10}
    assert misjudged(lines, 10, ["named", "short", "gone"]) == ({"long": 11}, ["short", "gone"])


def test_a_module_is_named_after_its_subject(package_and_harness):
    """No module or directory of the package has a name that says nothing about its content."""
    found = [
        module.path
        for module in package_and_harness
        for part in PurePath(module.path).with_suffix("").parts
        if EMPTY_NAMES & set(part.split("_"))
    ]
    assert not found, (
        "Such a name collects whatever has no home, and nobody looks there for it: name the "
        f"module after what it knows: {found}"
    )


def test_everything_public_has_a_docstring(package_and_harness):
    """Every public module, class, function and method says what it promises."""
    found = [line for module in package_and_harness for line in undocumented(module)]
    assert not found, (
        "A caller reads the promise, not the body: say what it returns and raises.\n"
        + "\n".join(found)
    )


def test_missing_docstrings_are_seen(parse_module):
    """The docstring rule sees modules, classes and methods, and lets private ones be."""
    source = (
        "class A:\n    def b(self): ...\n    def _c(self): ...\n    def __len__(self): ...\n"
        'def d():\n    "Said."\n    def nested(): ...\n'
    )
    found = undocumented(parse_module("batchrun/core/x.py", source))
    assert [line.split()[1] for line in found] == [
        "batchrun.core.x",
        "batchrun.core.x.A",
        "batchrun.core.x.A.b",
    ]


def test_a_deferred_task_states_its_reason(repository_texts):
    """A marker for later work says what is missing and why it can wait."""
    found = [
        f"{path}: {match.group().strip()}"
        for path, text in repository_texts.items()
        if path.endswith(".py")
        for match in MARKER.finditer(text)
        if not REASON.match(match.group(1))
    ]
    assert not found, (
        "A marker without a reason is a note that only its writer understands: state the reason "
        "after a colon, or do it now.\n" + "\n".join(found)
    )


def test_no_file_names_a_place_of_its_makers(repository_texts):
    """No file holds a path of the machine it was written on or the address of a registry."""
    found = [
        f"{path}: {match.group()}"
        for path, text in repository_texts.items()
        for match in FOREIGN.finditer(text)
    ]
    assert not found, (
        "Such a path or address means nothing on another machine, and pins the project to a place "
        "that its users may not reach.\n" + "\n".join(found)
    )
