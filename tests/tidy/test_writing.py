"""Which module may change the disk, and how.

What is durable goes through ``adapters/storage/disk.py``: the power cuts of
``tests/crash/test_power.py`` see what passes there, and nothing else. A change that passes
elsewhere would never be cut.
"""

import ast

# Calls that change the disk: of ``os`` and ``shutil``, and methods of paths and what else opens.
OF_OS = {
    *"fdatasync fdopen fsync ftruncate link makedirs mkdir mkfifo open posix_fallocate".split(),
    *"pwrite pwritev remove removedirs rename renames replace rmdir sendfile symlink".split(),
    *"truncate unlink write writev".split(),
}
OF_SHUTIL = {*"copy copy2 copyfile copyfileobj copytree move rmtree".split()}
OF_PATHS = {
    *"hardlink_to mkdir open rename rmdir symlink_to touch truncate unlink".split(),
    *"write_bytes write_text".split(),
}
OURS = {"disk", "draft", "files"}
"""What has methods of these names and goes through the seam itself."""
OF_TEMPFILE = {"mkdtemp", "mkstemp", "NamedTemporaryFile", "TemporaryDirectory", "TemporaryFile"}
ALL = OF_OS | OF_SHUTIL | OF_PATHS | OF_TEMPFILE

# Where that stands all the same: the module, the calls, and the reason.
EXCEPTIONS = {
    "batchrun.adapters.storage.disk": ({"os.open"}, "it is the one place"),
    "batchrun.adapters.system.platform": (
        {"os.fsync", "os.pwrite", "tempfile.TemporaryFile", "tempfile.NamedTemporaryFile"},
        "flushes for the seam; space for notes that nobody flushes; files that are thrown away",
    ),
    "batchrun.adapters.storage.files": (
        {"shutil.copyfileobj", "folder.mkdir"},
        "copies into a draft; a folder that is there by now",
    ),
    "batchrun.adapters.environment.control_socket": (
        {"os.open"},
        "looks at folders; what is left of a socket means nothing to the next run",
    ),
    "batchrun.rundir.lock": ({"os.open"}, "asks for a lock by looking"),
    "batchrun.rundir.chain.pairs": (
        {"tempfile.TemporaryFile"},
        "which rows belong together, for as long as they are read; it has no name",
    ),
    "batchrun.rundir.claim": (
        {"shutil.copytree", "shutil.rmtree"},
        "from one disk to another, by --restart",
    ),
    "batchrun.adapters.storage.object_store": (
        {"tempfile.mkstemp", "os.fdopen", "os.unlink"},
        "a file without a name, for what was fetched",
    ),
    "batchrun.rundir.state_reader": (
        {"shutil.copyfile", "tempfile.TemporaryDirectory"},
        "a look at a copy of the state file",
    ),
    "batchrun.rundir.rehearse": (
        {"shutil.copyfile", "tempfile.TemporaryDirectory"},
        "a dry run on a copy of the checkpoint",
    ),
    "batchrun.rundir.fleet.in_bucket": (
        {"shutil.rmtree"},
        "what was folded; nobody reads it again",
    ),
    "batchrun.rundir.fleet.looking": (
        {"tempfile.TemporaryDirectory"},
        "the plan of a fleet in a bucket, for as long as it is read",
    ),
    "batchrun.rundir.fleet.handing_on": (
        {"tempfile.TemporaryDirectory"},
        "a copy of the state file, until it is uploaded",
    ),
    "batchrun.rundir.fleet.launches": (
        {"shutil.rmtree"},
        "what is left of launches that were folded, or never announced",
    ),
    "batchrun.rundir.reuse.lookup": ({"shutil.rmtree"}, "indexes that can be built again"),
    "batchrun.rundir.reuse.hash_index": ({"tempfile.TemporaryFile"}, "is thrown away"),
    "batchrun.adapters.sources.files.local_file": (
        {"os.open", "os.fdopen"},
        "reads a file that a row names",
    ),
    "batchrun.adapters.sources.files.pipes": ({"os.open"}, "reads a pipe that has a name"),
    "batchrun.adapters.sources.tape": ({"tempfile.TemporaryFile"}, "is thrown away"),
    "batchrun.adapters.environment.sample_file": ({"tempfile.TemporaryFile"}, "is thrown away"),
    "batchrun.adapters.sources.onepass": ({"self._file.truncate"}, "that file"),
    "batchrun.adapters.scoring.database": (
        {"tempfile.TemporaryDirectory"},
        "room that is thrown away, for what does not fit DuckDB's memory",
    ),
    "batchrun.adapters.scoring.python_scorer": (
        {"tempfile.TemporaryFile", "shutil.copyfileobj"},
        "what a scorer reads and writes, thrown away",
    ),
    "batchrun.adapters.scoring.scorer_process": ({"os.fdopen"}, "its own standard output"),
    "batchrun.adapters.environment.ids": (
        {"tempfile.TemporaryDirectory", "Path.open"},
        "room that is thrown away, to find ids that come twice",
    ),
}


def writing(module):
    """Yield the line and the name of every call that may change the disk."""
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name) and node.func.id == "open" and _writes(node, 1):
            yield node.lineno, "open"
        if not isinstance(node.func, ast.Attribute):
            continue
        name = node.func.attr
        if name not in ALL:
            continue
        owner = ast.unparse(node.func.value)
        owner = "Path" if owner.startswith("Path(") else owner
        known = {"os": OF_OS, "shutil": OF_SHUTIL, "tempfile": OF_TEMPFILE}
        if owner in known:
            if name in known[owner]:
                yield node.lineno, f"{owner}.{name}"
        elif name in OF_PATHS and owner not in OURS and (name != "open" or _writes(node, 0)):
            yield node.lineno, f"{owner}.{name}"


def _writes(call, place):
    """Whether an ``open`` is given a mode that writes, or one that nobody can read here."""
    modes = call.args[place : place + 1] + [k.value for k in call.keywords if k.arg == "mode"]
    if not modes:
        return False
    if isinstance(modes[0], ast.Constant) and isinstance(modes[0].value, str):
        return bool(set(modes[0].value) & set("wax+"))
    return False


def test_what_is_durable_passes_the_seam(package):
    """Only named calls of named modules change the disk elsewhere, and no name outlives them."""
    adapters = [
        one for one in package if one.name.startswith(("batchrun.adapters", "batchrun.rundir"))
    ]
    found = {one.name: {call for _, call in writing(one)} for one in adapters}
    strays = [
        f"{one.path}:{line} {call}"
        for one in adapters
        for line, call in writing(one)
        if call not in EXCEPTIONS.get(one.name, ((), ""))[0]
    ]
    assert not strays, (
        "A power cut in the tests sees only what goes through adapters/storage/disk.py: call that, "
        "or name the call in EXCEPTIONS with the reason.\n" + "\n".join(strays)
    )
    idle = {
        name: sorted(calls - found.get(name, set()))
        for name, (calls, _) in EXCEPTIONS.items()
        if calls - found.get(name, set())
    }
    assert not idle, f"An exception that no longer is one: take it out of EXCEPTIONS: {idle}"


def test_writing_is_seen(parse_module):
    """The rule sees functions, methods of paths and modes; reading passes."""
    source = (
        "import os, shutil\n"
        "os.rename(a, b)\nshutil.move(a, b)\nfolder.mkdir()\n(folder / 'x').unlink()\n"
        "path.open('wb')\nopen(path, mode='a')\n"
        "path.open('rb')\nopen(path)\ntext.replace(a, b)\ndisk.unlink(path)\nstore.open(name)\n"
    )
    module = parse_module("batchrun/adapters/x.py", source)
    assert [line for line, _ in writing(module)] == [2, 3, 4, 5, 6, 7]
