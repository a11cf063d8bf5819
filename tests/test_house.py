"""The house rules that a machine can check: how long functions and modules are, who imports whom, what is public."""

from __future__ import annotations

import ast
import re
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src"

FUNCTION_P90_MAX = 30
FUNCTION_LINES_MAX = 70
MODULE_LINES_MAX = 600

BELOW_SERVER = {"engine", "store", "protocol", "errors", "measures"}
LAYERS: dict[str, set[str]] = {
    "errors": set(),
    "measures": set(),
    "protocol": {"errors"},
    "store": {"protocol", "errors", "measures"},
    "engine": {"store.base", "protocol", "errors", "measures"},
    "tokens": {"protocol", "errors"},
    "server": {"tokens", *BELOW_SERVER},
    "client": {"protocol", "errors"},
    "files": {"client", "protocol", "errors"},
    "terminal": {"client", "protocol", "errors"},
    "agent": {"client", "protocol", "errors"},
    "testing": {"asgi", "server", "tokens", *BELOW_SERVER},
    "asgi": {"server", *BELOW_SERVER},
    "web": {"asgi", "server", "client", *BELOW_SERVER},
    "cli": {"asgi", "server", "tokens", "client", "files", "terminal", "agent", *BELOW_SERVER},
    "__main__": {"cli"},
    "__init__": {"asgi", "server", "client", *BELOW_SERVER},
}
"""What each part of the package may import besides itself: downwards only."""

IMPURE = frozenset(
    {"apsw", "asyncio", "concurrent", "httptools", "logging", "multiprocessing", "os", "pathlib", "random"}
    | {"secrets", "select", "selectors", "shutil", "signal", "socket", "sqlite3", "ssl", "subprocess", "tempfile"}
    | {"threading", "time", "uuid", "uvicorn", "uvloop"}
)
"""What the protocol's rules may not import: time, chance, disk and network are arguments."""
IMPURE_CALLS = frozenset({"open", "print", "input", "now", "utcnow", "today"})

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """A module of the package, parsed."""

    path: Path

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def name(self) -> str:
        """Dotted, and ``unbroken.store.__init__`` for a package's own."""
        return ".".join(self.path.relative_to(SOURCE).with_suffix("").parts)

    @property
    def part(self) -> str:
        """The part of the package that it belongs to, as in `LAYERS`."""
        return self.name.split(".")[1]

    @property
    def is_public(self) -> bool:
        return not any(re.match(r"_(?!_init__)", part) for part in self.name.split("."))

    @cached_property
    def functions(self) -> list[FunctionNode]:
        return [node for node in ast.walk(self.tree) if isinstance(node, FunctionNode)]

    @cached_property
    def imports(self) -> list[tuple[int, str]]:
        """Line and full name of all that is imported, wherever the import stands."""
        found = []
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found += [(node.lineno, alias.name) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                start = "." * node.level + (node.module or "")
                found += [(node.lineno, f"{start}.{alias.name}") for alias in node.names]
        return found

    def at(self, line: int) -> str:
        return f"{self.path.relative_to(SOURCE.parent)}:{line}"


MODULES = [Module(path) for path in sorted(SOURCE.rglob("*.py"))]


def length(function: FunctionNode) -> int:
    """Lines of a function's body without its docstring; 0 for a mere signature."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    if not body or (isinstance(body[0], ast.Expr) and getattr(body[0].value, "value", None) is Ellipsis):
        return 0
    return (body[-1].end_lineno or 0) - body[0].lineno + 1


def test_functions_and_modules_are_short(report_fact: Callable[[str], None]) -> None:
    sizes = {module.at(node.lineno): length(node) for module in MODULES for node in module.functions}
    lengths = [lines for lines in sizes.values() if lines]
    p90 = statistics.quantiles(lengths, n=10, method="inclusive")[-1]
    modules = {module.at(1): module.text.count("\n") for module in MODULES}
    report_fact(
        f"src/unbroken: {len(lengths)} functions, lines: median {statistics.median(lengths):g}, p90 {p90:g}, "
        f"longest {max(lengths)}; {len(modules)} modules, longest {max(modules.values())}"
    )
    assert p90 <= FUNCTION_P90_MAX
    assert not {where: lines for where, lines in sizes.items() if lines > FUNCTION_LINES_MAX}
    assert not {where: lines for where, lines in modules.items() if lines > MODULE_LINES_MAX}


def assert_clean(faults_of: Callable[[Module], Iterator[str]], modules: list[Module]) -> None:
    faults = [fault for module in modules for fault in faults_of(module)]
    assert not faults, "\n".join(faults)


def test_imports_point_downwards() -> None:
    assert_clean(misplaced_imports, MODULES)


def misplaced_imports(module: Module) -> Iterator[str]:
    assert module.part in LAYERS, f"give unbroken.{module.part} a place in LAYERS"
    allowed = {module.part, *LAYERS[module.part]}
    for line, name in module.imports:
        top, _, rest = name.partition(".")
        if not top:
            yield f"{module.at(line)} imports {name}: write the full name"
        elif top == "unbroken" and not any(f"{rest}.".startswith(f"{below}.") for below in allowed):
            yield f"{module.at(line)} imports {name}: not below unbroken.{module.part}"


def test_the_rules_are_pure() -> None:
    rules = [module for module in MODULES if module.part in ("protocol", "errors")]
    assert len(rules) > 5
    assert_clean(impurities, rules)


def impurities(module: Module) -> Iterator[str]:
    for line, name in module.imports:
        if name.split(".")[0] in IMPURE:
            yield f"{module.at(line)} imports {name}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in IMPURE_CALLS:
                yield f"{module.at(node.lineno)} calls {called}()"


PUBLIC = [module for module in MODULES if module.is_public]


def test_what_is_public_is_named() -> None:
    assert len(PUBLIC) > 20
    assert_clean(misnamed, PUBLIC)


def misnamed(module: Module) -> Iterator[str]:
    """Faults of a module's ``__all__``: it is there, sorted, and holds each public class and function of the module."""
    bound = set(bound_names(module.tree.body))
    own = {node.name for node in module.tree.body if isinstance(node, ast.ClassDef | FunctionNode)}
    exported = exports(module)
    if exported is None:
        if bound:
            yield f"{module.at(1)} has no __all__"
        return
    if exported != sorted(exported, key=by_kind) or len(set(exported)) < len(exported):
        yield f"{module.at(1)} __all__ is not sorted"
    for name in sorted(set(exported) - bound):
        yield f"{module.at(1)} __all__ names {name}, which is not there"
    for name in sorted(name for name in own - set(exported) if not name.startswith("_")):
        yield f"{module.at(1)} __all__ lacks {name}"


def exports(module: Module) -> list[str] | None:
    for node in module.tree.body:
        if isinstance(node, ast.Assign) and [getattr(target, "id", None) for target in node.targets] == ["__all__"]:
            return list(ast.literal_eval(node.value))
    return None


def bound_names(body: list[ast.stmt]) -> Iterator[str]:
    """Names that a module's statements bind, except by ``from __future__``."""
    for node in body:
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.ImportFrom(module="__future__"):
                pass
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                yield from (alias.asname or alias.name.split(".")[0] for alias in names)
            case ast.Assign() | ast.AnnAssign():
                yield from (name.id for name in ast.walk(node) if isinstance(name, ast.Name) and is_bound(name))
            case ast.If(body=inner, orelse=other) | ast.Try(body=inner, orelse=other):
                yield from bound_names([*inner, *other])


def is_bound(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Store)


def by_kind(name: str) -> tuple[int, str]:
    """Constants, then classes, then the rest, as ruff sorts ``__all__``."""
    kind = 0 if name.isupper() else 1 if name[:1].isupper() else 2
    return kind, name


def test_what_is_public_is_documented() -> None:
    assert_clean(undocumented, PUBLIC)


def undocumented(module: Module) -> Iterator[str]:
    if ast.get_docstring(module.tree) is None:
        yield f"{module.at(1)} has no docstring"
    for node in module.tree.body:
        if not isinstance(node, ast.ClassDef | FunctionNode) or node.name.startswith("_"):
            continue
        if ast.get_docstring(node) is None:
            yield f"{module.at(node.lineno)} {node.name} has no docstring"
        if isinstance(node, ast.ClassDef):
            for method in methods(node):
                if ast.get_docstring(method) is None and not is_promised(node, method.name):
                    yield f"{module.at(method.lineno)} {node.name}.{method.name} has no docstring"


CLASSES = {node.name: node for module in MODULES for node in ast.walk(module.tree) if isinstance(node, ast.ClassDef)}


def is_promised(node: ast.ClassDef, method: str) -> bool:
    """Whether a base class or a Protocol has the words for a method: who keeps a promise need not repeat it."""
    contracts = [*ancestors(node), *(other for other in CLASSES.values() if "Protocol" in base_names(other))]
    return any(
        promise.name == method and ast.get_docstring(promise) is not None
        for contract in contracts
        for promise in methods(contract)
    )


def ancestors(node: ast.ClassDef) -> Iterator[ast.ClassDef]:
    for name in base_names(node):
        if (base := CLASSES.get(name)) and base is not node:
            yield base
            yield from ancestors(base)


def base_names(node: ast.ClassDef) -> list[str]:
    return [ast.unparse(base).split("[")[0].split(".")[-1] for base in node.bases]


def methods(node: ast.ClassDef) -> list[FunctionNode]:
    """A class's public methods, without the setters and overloads that share another's name."""
    twins = {"overload", "setter", "deleter"}
    return [
        method
        for method in node.body
        if isinstance(method, FunctionNode)
        and not method.name.startswith("_")
        and not any(ast.unparse(decorator).split(".")[-1] in twins for decorator in method.decorator_list)
    ]
