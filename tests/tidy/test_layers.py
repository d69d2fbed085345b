"""Which module may import what.

The package is a stack. Imports point to the same layer or down, whether they stand at the top of a
module, inside a function or under `TYPE_CHECKING`; some libraries are kept to the modules whose
subject they are. Each rule carries the reason that a failure prints.
"""

import ast
import sys
from collections import Counter
from functools import cache

import pytest

# The first part of a module's name below `batchrun`, and its layer.
LAYERS = {
    "records": 0,
    "ports": 0,
    "errors": 0,
    "core": 1,
    "engine": 2,
    "adapters": 3,
    "rundir": 4,
    "assemble": 5,
    "session": 5,
    "judging": 5,
    "wiring": 5,
    "machinery": 5,
    "views": 6,
    "announcing": 7,
    "api": 7,
    "api_errors": 7,
    "api_progress": 7,
    "api_types": 7,
    "api_wording": 7,
    "calls": 7,
    "builtin_simulators": 7,
    "fleet": 7,
    "": 7,  # batchrun/__init__.py offers the api
    "cli": 7,
    "simulator": 7,
    "__main__": 7,
}

FOLDER_MODULES_MAX = 20

# Libraries, where they may be imported (a package, or one module), and why nowhere else.
HOMES = [
    (
        {"pyarrow"},
        ("batchrun.adapters", "batchrun.rundir", "batchrun.views"),
        "Arrow is a file format here: a decision must not need it (49 MB, 0.1 s to load).",
    ),
    (
        {"sqlite3"},
        ("batchrun.adapters.journal", "batchrun.rundir"),
        "SQLite is how the journal is stored: another store must be able to take its place.",
    ),
    (
        {"aiohttp"},
        (
            "batchrun.adapters.http.transport",
            "batchrun.adapters.http.aiohttp_internals",
            "batchrun.adapters.http.connections",
            "batchrun.adapters.http.exchange",
            "batchrun.adapters.http.plain_exchange",
            "batchrun.adapters.http.reply_body",
            "batchrun.adapters.http.faults",
            "batchrun.adapters.http.keepalive",
            "batchrun.adapters.http.load_reports",
            "batchrun.simulator",
            "batchrun.views.watch.page_server",
        ),
        "Few modules talk HTTP: one turns its exceptions into ours, one knows its insides.",
    ),
    (
        {"prometheus_client"},
        ("batchrun.adapters.environment.exposition",),
        "One module names the metrics, for the file and for the address alike.",
    ),
    (
        {"tenacity", "aiolimiter"},
        ("batchrun.engine",),
        "Retrying and pacing happen once, around the attempt: a second place would multiply both.",
    ),
    (
        {"jsonschema_rs"},
        ("batchrun.core.schema.json_schema",),
        "One module bounds what a schema may cost, and lets none of them fetch anything.",
    ),
    (
        {"duckdb"},
        ("batchrun.adapters.scoring.database",),
        "One module locks the engine; a connection made elsewhere could read any file.",
    ),
    (
        {"obstore"},
        ("batchrun.adapters.storage.bucket",),
        "One module makes conditional puts, for those who installed the extra.",
    ),
    (
        {"ray"},
        ("batchrun.fleet.ray_cluster", "batchrun.fleet.ray_worker"),
        "Ray takes seconds and 100 MB to load: only a command with --engine ray may.",
    ),
    (
        {"rich"},
        ("batchrun.views", "batchrun.cli"),
        "What a terminal shows is for views and commands: the engine reports through its observer.",
    ),
]

FORBIDDEN_IN_CORE = {
    "aiohttp",
    "asyncio",
    "logging",
    "os",
    "pyarrow",
    "random",
    "sqlite3",
    "time",
    "uvloop",
}


@cache
def imports(module):
    """The line and the dotted target of every import, at any depth; names are joined on."""
    return list(_imports(module))


def _imports(module):
    is_package = module.path.endswith("__init__.py")
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            start = node.module or ""
            if node.level:
                parents = module.name.split(".")
                kept = len(parents) - node.level + is_package
                start = ".".join([*parents[:kept], *filter(None, [start])])
            for alias in node.names:
                yield node.lineno, f"{start}.{alias.name}"


def layer_key(dotted, package_names):
    """The entry of `LAYERS` that a dotted name below `batchrun` belongs to."""
    parts = dotted.split(".")
    below = parts[1] if len(parts) > 1 else ""
    is_module = any(name.split(".")[1:2] == [below] for name in package_names)
    return below if is_module or below in LAYERS else ""


def folder_of(module):
    """The dotted name of the folder that a module lies in; a package's own file lies in it too."""
    is_package = module.path.endswith("__init__.py")
    return module.name if is_package else module.name.rpartition(".")[0]


def folder_imports(modules):
    """Which folder imports which, and by what import; those of the top level are not folders: each
    of its modules has a layer of its own.
    """
    folders = {module.name: folder_of(module) for module in modules}
    found = {}
    for module in modules:
        own = folders[module.name]
        for line, target in imports(module):
            target_folder = folders.get(target) or folders.get(target.rpartition(".")[0])
            if target_folder and target_folder != own and "batchrun" not in (own, target_folder):
                where = f"{module.path}:{line} imports {target}"
                found.setdefault((own, target_folder), where)
    return found


def cycle_in(edges):
    """The folders of one cycle, in order, or an empty list."""
    onto = {}
    for start, end in edges:
        onto.setdefault(start, []).append(end)
    done, path = set(), []

    def visit(folder):
        if folder in path:
            return path[path.index(folder) :]
        if folder in done:
            return []
        path.append(folder)
        for end in onto.get(folder, ()):
            if found := visit(end):
                return found
        done.add(path.pop())
        return []

    return next((found for folder in list(onto) if (found := visit(folder))), [])


def within(dotted, homes):
    """Whether a dotted name is one of the homes or lies inside one."""
    return any(dotted == home or dotted.startswith(home + ".") for home in homes)


def is_testing(module):
    """Whether the module belongs to the public fakes, which stand outside the stack."""
    return within(module.name, ("batchrun.testing",))


def upward_imports(modules):
    """Describe every import that points to a higher layer."""
    names = {module.name for module in modules}
    found = []
    for module in modules:
        if is_testing(module):
            continue
        own = LAYERS[layer_key(module.name, names)]
        for line, target in imports(module):
            if target == "batchrun.__version__" or not within(target, ("batchrun",)):
                continue
            key = layer_key(target, names)
            if key != "testing" and LAYERS[key] > own:
                found.append(f"{module.path}:{line} (layer {own}) imports {target} ({LAYERS[key]})")
    return found


def strayed_imports(modules, libraries, homes):
    """Describe every import of one of the libraries outside its homes."""
    return [
        f"{module.path}:{line} imports {target}"
        for module in modules
        if not is_testing(module) and not within(module.name, homes)
        for line, target in imports(module)
        if target.split(".")[0] in libraries
    ]


def test_every_module_has_a_layer(package):
    """A new top-level module cannot stay outside the stack unnoticed."""
    names = {module.name for module in package}
    homeless = sorted(
        module.path
        for module in package
        if not is_testing(module) and layer_key(module.name, names) not in LAYERS
    )
    assert not homeless, (
        "A module without a layer is bound by no rule: give it one in LAYERS, or put it where it "
        f"belongs: {homeless}"
    )


def test_imports_point_down(package):
    """No module imports from a layer above its own."""
    found = upward_imports(package)
    assert not found, (
        "A lower layer that knows a higher one cannot be read, tested or replaced alone. Pass the "
        "value in, or move the piece down:\n" + "\n".join(found)
    )


def test_folders_import_each_other_one_way(package):
    """No folder can be reached from itself by imports."""
    edges = folder_imports(package)
    cycle = cycle_in(edges)
    assert not cycle, (
        "Folders that need each other are one folder in two places. Move the piece that both need "
        "down, or pass it in:\n"
        + "\n".join(edges[step] for step in zip(cycle, [*cycle[1:], cycle[0]], strict=True))
    )


def module_imports(modules):
    """Which module imports which, and by what import; ``__init__`` files are left out."""
    names = {module.name for module in modules if not module.path.endswith("__init__.py")}
    found = {}
    for module in modules:
        for line, target in imports(module):
            hit = next((t for t in (target, target.rpartition(".")[0]) if t in names), module.name)
            if hit != module.name and module.name in names:
                found.setdefault((module.name, hit), f"{module.path}:{line} imports {target}")
    return found


def test_modules_import_each_other_one_way(package):
    """No module can be reached from itself by imports, wherever in it they stand."""
    edges = module_imports(package)
    cycle = cycle_in(edges)
    assert not cycle, (
        "Neither of them can be read alone. Move what both need into a third:\n"
        + "\n".join(edges[step] for step in zip(cycle, [*cycle[1:], cycle[0]], strict=True))
    )


def test_a_cycle_of_folders_is_seen(parse_module):
    """However long it is; a folder's own modules may import each other as they like."""
    made = [
        parse_module("batchrun/core/a/x.py", "from batchrun.core.b import y\nimport json"),
        parse_module("batchrun/core/b/y.py", "def late():\n    from batchrun.core.c.z import Z"),
        parse_module("batchrun/core/c/z.py", "from batchrun.core.c import w"),
        parse_module("batchrun/core/c/w.py", "from batchrun.core.c.z import Z"),
    ]
    assert cycle_in(folder_imports(made)) == []
    closing = parse_module("batchrun/core/c/v.py", "import batchrun.core.a.x")
    assert cycle_in(folder_imports([*made, closing])) == [
        "batchrun.core.a",
        "batchrun.core.b",
        "batchrun.core.c",
    ]


def test_a_folder_has_few_modules(package):
    """At most ``FOLDER_MODULES_MAX``, and none beside the rooms of ``core`` and ``adapters``."""
    counts = Counter(
        folder_of(module)
        for module in package
        if not (module.path.endswith("__init__.py") or is_testing(module))
    )
    full = {folder: count for folder, count in counts.items() if count > FOLDER_MODULES_MAX}
    assert not full, (
        f"Nobody finds a thing among more than {FOLDER_MODULES_MAX}: give a group of them a folder "
        f"with a name that a stranger would guess: {full}"
    )
    loose = [f for f in ("batchrun.core", "batchrun.adapters") if counts[f]]
    assert not loose, f"these hold folders only, so that each module has a subject above: {loose}"


def test_the_lowest_layer_is_standard_library_only(package):
    """Records, ports and errors import nothing but the standard library and each other."""
    found = [
        f"{module.path}:{line} imports {target}"
        for module in package
        if within(module.name, ("batchrun.records", "batchrun.ports", "batchrun.errors"))
        for line, target in imports(module)
        if target.split(".")[0] not in {*sys.stdlib_module_names, "batchrun"}
    ]
    assert not found, (
        "Every module imports the nouns and the seams: whatever they pulled in, every process "
        "would load.\n" + "\n".join(found)
    )


def test_the_package_does_not_import_its_fakes(package):
    """Nothing outside `batchrun.testing` imports it, and nothing at all imports the tests."""
    found = [
        f"{module.path}:{line}"
        for module in package
        for line, target in imports(module)
        if within(target, ("tests",))
        or (within(target, ("batchrun.testing",)) and not is_testing(module))
    ]
    assert not found, (
        "A fake in the program's own path could reach a real run; fakes are for tests.\n"
        + "\n".join(found)
    )


def impure_imports(modules):
    """Describe what `core` imports although it reaches the world outside."""
    return [
        f"{module.path}:{line} imports {target}"
        for module in modules
        if within(module.name, ("batchrun.core",))
        for line, target in imports(module)
        if target.split(".")[0] in FORBIDDEN_IN_CORE
        or (target.split(".")[0] == "pathlib" and ".Pure" not in target)
    ]


def test_core_is_pure(package):
    """`core` imports nothing that waits, draws, logs, or touches a clock, a disk or a network."""
    found = impure_imports(package)
    assert not found, (
        "Pure decisions are tested by tables, in microseconds, with the same result each time: "
        "clock, randomness, environment and files come in as arguments. PurePath is fine.\n"
        + "\n".join(found)
    )


@pytest.mark.parametrize(
    ("libraries", "homes", "reason"), HOMES, ids=["+".join(sorted(row[0])) for row in HOMES]
)
def test_a_library_stays_at_home(package, libraries, homes, reason):
    """A library is imported only by the modules whose subject it is."""
    found = strayed_imports(package, libraries, homes)
    assert not found, f"{reason} Allowed in {', '.join(homes)}.\n" + "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "import batchrun.cli.main",
        "from batchrun import cli",
        "from batchrun.cli import main",
        "from ..cli.main import main",
        "def late():\n    from batchrun.cli.main import main",
        "from batchrun import run",
    ],
)
def test_an_upward_import_is_seen_however_it_is_written(parse_module, source):
    """The rule turns red for each spelling of the same offence."""
    main = parse_module("batchrun/cli/main.py", "")
    assert upward_imports([main, parse_module("batchrun/engine/attempt.py", source)])


@pytest.mark.parametrize(
    "source",
    [
        "from batchrun import __version__, errors",
        "from batchrun.core import verdict",
        "from . import gate",
        "import asyncio",
    ],
)
def test_a_downward_import_is_allowed(parse_module, source):
    """The rule stays green for same-layer, lower and foreign imports."""
    others = [
        parse_module(f"batchrun/{path}.py", "")
        for path in ("errors", "core/verdict", "engine/gate", "cli/main")
    ]
    assert not upward_imports([*others, parse_module("batchrun/engine/attempt.py", source)])


@pytest.mark.parametrize(
    ("source", "impure"),
    [
        ("import os.path", True),
        ("from time import monotonic", True),
        ("import pathlib", True),
        ("from pathlib import Path", True),
        ("from pathlib import PurePosixPath", False),
        ("import json", False),
    ],
)
def test_an_impure_import_is_seen(parse_module, source, impure):
    """The purity rule tells what reaches the world from what does not."""
    assert bool(impure_imports([parse_module("batchrun/core/request/body.py", source)])) is impure


def test_a_strayed_library_is_seen(parse_module):
    """The rule turns red outside a library's home and stays green inside it."""
    source = "def late():\n    import pyarrow.parquet as pq"
    inside = parse_module("batchrun/adapters/parts/sealer.py", source)
    outside = parse_module("batchrun/engine/engine.py", source)
    assert strayed_imports([inside, outside], {"pyarrow"}, ("batchrun.adapters",)) == [
        "batchrun/engine/engine.py:2 imports pyarrow.parquet"
    ]
