"""The laws of the house, read from the source itself: where a line may live, how long it may be, what it may touch."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("lm", "tasks", "scripts", "tpu")
ROOMS = ("lm", "tasks", "scripts", "tpu", "tests", "docs")

# Rooms of lm from the ground up: a room imports from its own storey and from those below.
STOREYS = (
    {
        *("strict", "types", "model_config", "config", "environment", "exits", "job", "doctor", "flops", "collectives"),
        *("files", "versions"),
    },
    {"models", "mesh", "keys", "products", "rollcall", "processes"},
    {
        "transforms",
        "losses",
        "optim",
        "data",
        "checkpoint",
        "selection",
        "report",
        "watchdog",
        "interrupt",
        "guard",
        "migrations",
        "memory",
    },
    {"interop", "start", "step", "train", "observe", "probe", "evaluate", "decode", "candidates"},
    {"sweep", "trained", "look"},
)
FORBIDDEN_IMPORTS = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "torch", "tensorflow"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "yaml.load", "torch.load", "jax.config.update", "os.system"}
# Files are written by lm.files, but for those of folders that are renamed into place, or checked, once complete.
IN_PLACE = {"lm/files.py", "lm/checkpoint.py", "lm/data/corpus.py", "lm/interop/export.py", "tasks/interop/tiny.py"}
GLOBAL_RANDOMNESS = re.compile(r"(np|numpy)\.random\.(?!default_rng|Generator)|random\.(?!Random)")


def sources(*folders):
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name_of(path):
    return path.relative_to(ROOT).as_posix()


SOURCES = sources(*PACKAGES, "tests")
TREES = {name_of(path): ast.parse(path.read_text()) for path in SOURCES}


def imports(tree):
    """Yield (full dotted name, line) of everything that a module imports, wherever the import stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute, so that grep finds them"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def calls(tree):
    """Yield (dotted name as written, line) of every call whose function is a name or an attribute of names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node.lineno


def at_import(tree):
    """Yield the nodes that run when a module is imported: all but the bodies of functions and of `__main__`."""
    queue = list(tree.body)
    while queue:
        node = queue.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            queue += [*getattr(node, "decorator_list", ()), *node.args.defaults]
        elif not (isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)):
            yield node
            queue += ast.iter_child_nodes(node)


def storey(room):
    return next(level for level, rooms in enumerate(STOREYS) if room in rooms)


def test_every_room_of_lm_has_a_storey():
    rooms = {path.relative_to(ROOT / "lm").parts[0].removesuffix(".py") for path in sources("lm")} - {"__init__"}
    assert rooms <= set().union(*STOREYS)


@pytest.mark.parametrize("name", TREES)
def test_imports_point_down(name):
    package, *rest = name.split("/")
    for imported, line in imports(TREES[name]):
        target, *inside = imported.split(".")
        where = f"{name}:{line} imports {imported}"
        assert target != "tests", where
        flags = (package, target) == ("tpu", "scripts")  # a plan takes a recipe's flags as training does
        assert target not in ("scripts", "tpu") or package in (target, "tests") or flags, where
        assert not (package == "lm" and target == "tasks"), where
        if package == target == "lm" and rest != ["__init__.py"]:
            room = rest[0].removesuffix(".py")
            assert storey(inside[0]) <= storey(room), where


@pytest.mark.parametrize("name", TREES)
def test_files_and_functions_are_short(name):
    text = (ROOT / name).read_text()
    assert text.count("\n") <= 400
    assert Path(name).stem not in ("utils", "common", "helpers", "misc")
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < 60, f"{name}:{node.lineno} {node.name}"
    if name.startswith("scripts/") and "main_guard(main)" in text:
        assert text.count("\n") <= 60


@pytest.mark.parametrize("name", [n for n in TREES if not n.startswith("tests/")])
def test_nothing_dangerous_is_imported_or_called(name):
    peers = {"torch"} if name.startswith("scripts/peers/") else set()  # they run in environments of their own
    for imported, line in imports(TREES[name]):
        assert imported.split(".")[0] not in FORBIDDEN_IMPORTS - peers, f"{name}:{line} imports {imported}"
    for called, line in calls(TREES[name]):
        assert called not in FORBIDDEN_CALLS, f"{name}:{line} calls {called}"
        assert not GLOBAL_RANDOMNESS.match(called), f"{name}:{line} {called} draws from a global state"
    assert "allow_pickle" not in (ROOT / name).read_text()


@pytest.mark.parametrize("name", [n for n in TREES if not n.startswith("tests/") and n not in IN_PLACE])
def test_files_are_written_whole(name):
    for called, line in calls(TREES[name]):
        assert not called.endswith((".write_text", ".write_bytes", "os.replace")), f"{name}:{line} {called}"
    assert not re.search(r"""open\((?:[^()]*, )?"[wx]b?\"""", (ROOT / name).read_text()), name


@pytest.mark.parametrize("name", [n for n in TREES if not n.startswith("tests/")])
def test_nothing_happens_at_import(name):
    for node in at_import(TREES[name]):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert not called.startswith(("jnp.", "jax.random", "jax.device", "jax.config", "open", "print")), (
                f"{name}:{node.lineno} calls {called} at import"
            )
        assert not isinstance(node, ast.Global), f"{name}:{node.lineno}"


@pytest.mark.parametrize("name", [n for n in TREES if not n.startswith("tests/")])
def test_public_names_say_what_they_do(name):
    tree = TREES[name]
    assert ast.get_docstring(tree), f"{name} has no docstring"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            spoken_for = node.name in ("main", "Options")  # by the docstring of their script
            assert spoken_for or ast.get_docstring(node), f"{name}:{node.lineno} {node.name}"


def test_no_machine_is_named():
    paths = re.compile(r"(?<![\w.:/])/(?:work|root|home|farm|Users|mnt|scratch)/\w")
    kinds = (".py", ".md", ".cfg", ".toml", ".json", "")
    files = [p for room in (*ROOMS, ".ci") for p in (ROOT / room).rglob("*") if p.suffix in kinds and p.is_file()]
    files += [p for p in ROOT.iterdir() if p.is_file() and p.suffix in kinds]
    hits = [f"{name_of(p)}: {m[0]}" for p in files for m in paths.finditer(p.read_text(errors="replace"))]
    assert not hits


def modules_after(code):
    code += "\nimport sys; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_lm_or_tasks_loads_no_library():
    heavy = {"jax", "flax", "optax", "orbax", "grain", "tensorflow_datasets", "tokenizers", "numpy"}
    assert not heavy & modules_after("import lm, tasks")


def test_configurations_load_without_jax():
    assert "jax" not in modules_after("import lm.config, lm.strict, lm.exits")


def test_tasks_and_drivers_load_data_libraries_only_in_use():
    heavy = {"tensorflow", "tensorflow_datasets", "grain", "array_record", "tokenizers", "orbax"}
    assert not heavy & modules_after("import tasks.registry, lm.train, lm.sweep, lm.decode, lm.data")


def readme_tree():
    """Return the paths that the tree in the README names."""
    block = re.search(r"^## The tree\n+```\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)[1]
    folders, paths = [], []
    for line in block.splitlines():
        if line.strip():
            depth = (len(line) - len(line.lstrip())) // 2
            name = line.split()[0]
            paths.append("".join(folders[:depth]) + name)
            if name.endswith("/"):
                folders[depth:] = [name]
    return paths


def test_readme_names_every_file_once_and_no_other():
    named = readme_tree()
    assert len(named) == len(set(named))
    assert [path for path in named if not (ROOT / path).exists()] == []
    files = {name for name in TREES if not name.endswith("__init__.py")}
    files |= {name_of(p) for p in (ROOT / "docs").glob("*.md")} | {p.name for p in ROOT.glob("*.*") if p.is_file()}
    assert sorted(name for name in files - set(named) if not name.startswith(".")) == []
