"""The texts that users read: plain words, and one form of messages and docstrings."""

import ast
import builtins
import io
import re
import tokenize
from pathlib import Path

import pytest

import fkjax

ROOT = Path(fkjax.__file__).parents[1]

AVOIDED = re.compile(
    r"""\b(
    by\ lot | dear(er|est)? | mend\w* | told | tells | go(es|ing)?\ on
    | begins?\ anew | plays | played\ again | thin(ner|nest)? | who\ is\ asked
    | nobody | alike | whoever | aught | spares? | of\ one's\ own | as\ it\ lies
    | (un|re|mis)?labell(ed|ing|ers?)
    | colour(s|ed)? | neighbours? | behaviours? | cent(re|res|red)
    | (un)?(normal|initial|optim|maxim|minim|summar|material|penal|general|organ
      |serial|standard|regular|random|quant|parallel)is(e|es|ed|er|ing|ations?)
    )\b""",
    re.IGNORECASE | re.VERBOSE,
)
"""Words for which there is a plainer one, and British spellings: the project's texts,
like those of the libraries that it builds on, are in American English."""

ALLOWED: dict[str, str] = {
    # Purposes of `key_for`, which determine the random draws.
    "labelled batch": "`vaal` draws its batches for these purposes",
}
"""Exact excerpts that may have such words, and why."""

NAMES: set[str] = {"TFDS"}
"""Proper names and names of classes with which a message may begin."""


def files_in(*patterns):
    paths = {path for pattern in patterns for path in ROOT.glob(pattern)}
    return sorted(p for p in paths if (ROOT / "docs/results/runs") not in p.parents)


PACKAGE = files_in("fkjax/**/*.py")
SOURCES = PACKAGE + files_in("benchmarks/**/*.py", "docs/*.py", "examples/**/*.py")
PAGES = files_in(
    *("fkjax/**/*.jinja", "fkjax/**/*.css", "benchmarks/*.md"),
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/**/*.md"),
    *("examples/*.md", ".github/**/*.md", ".github/**/*.yml", "CITATION.cff"),
)


def each(paths):
    """A parameter for each file."""
    return [pytest.param(path, id=str(path.relative_to(ROOT))) for path in paths]


def comments(source):
    """Each comment of a source with its line; consecutive lines are joined."""
    found = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            line, text = token.start[0], token.string.lstrip("#! ")
            if found and found[-1][1] == line - 1:
                first, _, before = found.pop()
                found.append((first, line, f"{before} {text}"))
            else:
                found.append((line, line, text))
    return [(first, text) for first, _, text in found]


def strings(source):
    """Each string literal of a source, docstrings included, with its line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def texts(path):
    """(line, text) pairs: the texts of a file."""
    content = path.read_text()
    if path.suffix == ".py":
        return [*strings(content), *comments(content)]
    return [(1, content)]


def avoided(path):
    """Each word to avoid in a file, as `path:line: the words around it`."""
    for line, text in texts(path):
        for excerpt in ALLOWED:
            text = text.replace(excerpt, blank(excerpt))
        for match in AVOIDED.finditer(re.sub(r"\s", " ", text)):
            start, end = match.span()
            around = " ".join(text[max(start - 40, 0) : end + 30].split())
            at = line + text.count("\n", 0, start)
            yield f"{path.relative_to(ROOT)}:{at}: {match[0]!r} in {around!r}"


def blank(excerpt):
    """As many lines as an excerpt has, without its words."""
    return "\n" * excerpt.count("\n")


@pytest.mark.parametrize("path", each(SOURCES + PAGES))
def test_no_text_has_a_word_to_avoid(path):
    assert not list(avoided(path))


def test_every_exception_to_the_words_is_needed():
    everything = [text for path in SOURCES + PAGES for _, text in texts(path)]
    for excerpt in ALLOWED:
        assert AVOIDED.search(excerpt), excerpt
        assert any(excerpt in text for text in everything), excerpt


@pytest.mark.parametrize(
    "text",
    [
        *("drawn by lot", "the Dearest", "mended", "it is told", "tells", "goes on"),
        *("going\non", "begins anew", "a thin pool", "unlabelled", "labelling"),
        *("colour", "a Neighbour", "normalised", "initialisation", "centred"),
    ],
)
def test_words_to_avoid_are_found(tmp_path, text, monkeypatch):
    monkeypatch.setattr("tests.test_words.ROOT", tmp_path)
    path = tmp_path / "module.py"
    for source in (f'"""{text}"""', f'f"""{{x}} {text}"""', comment(text)):
        path.write_text(f"x = 1\n{source}\n")
        assert len(list(avoided(path))) == 1, source


def comment(text):
    return "\n".join(f"# {line}" for line in text.splitlines())


def test_identifiers_are_not_words(tmp_path):
    path = tmp_path / "module.py"
    path.write_text("thin = dear(told)\n'thinning, in between: is_labelled'\n")
    assert not list(avoided(path))


def is_exception(name, own):
    known = getattr(builtins, name, None)
    return name in own or (isinstance(known, type) and issubclass(known, Exception))


def exceptions(paths):
    """The exception classes that some sources define: name -> (path, docstring)."""
    classes = [
        (path, node)
        for path in paths
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    ]
    found: dict[str, tuple[Path, str]] = {}
    while True:
        new = {
            node.name: (path, ast.get_docstring(node) or "")
            for path, node in classes
            if any(is_exception(last_name(base), found) for base in node.bases)
        }
        if new == found:
            return found
        found = new


def last_name(node):
    """`c` of the expression `a.b.c`."""
    return getattr(node, "attr", getattr(node, "id", ""))


EXCEPTIONS = exceptions(PACKAGE)


def messages(source):
    """(line, first literal, last literal) of each exception that a source makes.

    A literal is a text, or None where the message begins or ends with a value.
    """
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Call)
            and node.args
            and is_exception(last_name(node.func), EXCEPTIONS)
        ):
            for part in alternatives(node.args[0]):
                yield node.lineno, edge(part, 0), edge(part, -1)


def alternatives(node):
    if isinstance(node, ast.IfExp):
        return [*alternatives(node.body), *alternatives(node.orelse)]
    return [node]


def edge(node, end):
    """The text with which an expression begins (`end` 0) or ends (-1), or None."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return edge(node.right if end else node.left, end)
    if isinstance(node, ast.JoinedStr):
        return edge(node.values[end], end) if node.values else None
    is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return node.value if is_text else None


def faults_of_messages(source):
    for line, start, end in messages(source):
        first = re.match(r"[\w.]*", start or "")[0]
        if first[:1].isupper() and first.rstrip(".") not in NAMES:
            yield f"{line}: begins with a capital: {start!r}"
        if (end or "").rstrip().endswith("."):
            yield f"{line}: ends with a full stop: {end!r}"


@pytest.mark.parametrize("path", each(PACKAGE))
def test_messages_begin_in_lower_case_and_have_no_full_stop(path):
    assert not list(faults_of_messages(path.read_text()))


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("raise UserError('no budget')", 0),
        ("raise UserError(f'--budget is {n}')", 0),
        ("raise base.UserError(f'{path} is empty')", 0),
        ("raise UserError('There is none')", 1),
        ("raise ValueError('none.')", 1),
        ("return UserError(f'There are {n}.')", 2),
        ("raise KeyError(f'{n} are' f' left.')", 1),
        ("raise TypeError('one' + ' more.')", 1),
        ("raise RuntimeError('one.' if one else 'two.')", 2),
        ("log('There is none.')", 0),
    ],
)
def test_faults_of_messages_are_found(source, count):
    assert len(list(faults_of_messages(source))) == count


NOT_VERBS = {"this", "its", "as", "is", "was", "has", "always", "theirs", "ours"}


def faults_of_summaries(source):
    """Each summary that does not begin as "Returns the ..." does.

    The summary of a property is a noun phrase.
    """
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        decorators = {last_name(each) for each in node.decorator_list}
        docstring = ast.get_docstring(node)
        if docstring is None or decorators & {"property", "cached_property"}:
            continue
        first, second, *_ = [*docstring.split(), "", ""]
        is_verb = re.fullmatch("[A-Z][a-z-]*s", first) and second != "of"
        if not is_verb or first.lower() in NOT_VERBS:
            yield f"{node.lineno}: {node.name}: {docstring.splitlines()[0]!r}"


@pytest.mark.parametrize("path", each(PACKAGE))
def test_summaries_of_functions_begin_with_a_verb(path):
    assert not list(faults_of_summaries(path.read_text()))


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("def f():\n    'Returns the sum.'", 0),
        ("class A:\n    def f(self):\n        'The sum.'", 1),
        ("class A:\n    @property\n    def f(self):\n        'The sum.'", 0),
        ("def f():\n    'This returns the sum.'", 1),
        ("def f():\n    'Names of the fields.'", 1),
        ("def f():\n    pass", 0),
    ],
)
def test_faults_of_summaries_are_found(source, count):
    assert len(list(faults_of_summaries(source))) == count


NOT_NOUNS = "of what how which who those these in by Shape Shapes".split()


def faults_of_arguments(source):
    """Each argument or attribute whose description does not begin with a noun."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        docstring = ast.get_docstring(node) or ""
        for section in re.findall(
            r"^(?:Args|Attributes):\n((?: {4}.*\n?|\n)+)", docstring, re.MULTILINE
        ):
            for name, first in re.findall(
                r"^ {4}\**(\w+):\s+(\w+)", section, re.MULTILINE
            ):
                if first in NOT_NOUNS:
                    yield f"{node.lineno}: {node.name}: {name}: {first} ..."


@pytest.mark.parametrize("path", each(PACKAGE))
def test_descriptions_of_arguments_begin_with_a_noun(path):
    assert not list(faults_of_arguments(path.read_text()))


@pytest.mark.parametrize(
    ("line", "count"),
    [
        ("x: input of the layer. Shape [N].", 0),
        ("x: the input.", 0),
        ("x: `f(key)`.", 0),
        ("x: Shape [N].", 1),
        ("*xs: of the layer.", 1),
        ("x:\n            what goes into the layer.", 1),
    ],
)
def test_faults_of_arguments_are_found(line, count):
    for kind, head in (("Args", "def f():"), ("Attributes", "class A:")):
        text = f'"""Summary.\n\n    {kind}:\n        {line}\n    """'
        assert len(list(faults_of_arguments(f"{head}\n    {text}"))) == count


def test_exceptions_say_when_they_are_raised():
    assert "UserError" in EXCEPTIONS
    for name, (path, docstring) in EXCEPTIONS.items():
        assert docstring.startswith("Raised "), f"{path}: {name}"


def defined(body):
    """The names that statements define, with the statements: name -> node."""
    found = {}
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.AnnAssign):
            found[ast.unparse(node.target)] = node
        elif isinstance(node, ast.Assign):
            found |= {ast.unparse(target): node for target in node.targets}
        elif isinstance(node, ast.If):
            found |= defined(node.body)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name: node for alias in node.names}
    return found


MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): (
        ast.parse(path.read_text()).body
    )
    for path in PACKAGE
}


def exists(name):
    """Whether `fkjax.a.b.C.d` is a module or is defined in one."""
    parts = name.split(".")
    cuts = range(len(parts), 0, -1)
    cut = next((i for i in cuts if ".".join(parts[:i]) in MODULES), None)
    if cut is None:
        return False
    body = MODULES[".".join(parts[:cut])]
    for part in parts[cut:]:
        node = defined(body).get(part)
        if node is None:
            return False
        body = getattr(node, "body", [])
    return True


def test_names_in_texts_exist():
    for path in SOURCES + PAGES:
        for _, text in texts(path):
            for name in re.findall(r"`(fkjax(?:\.\w+)+)(?=`|\()", text):
                assert exists(name), f"{path}: {name}"


def test_names_that_do_not_exist_are_found():
    assert exists("fkjax.base.Model.apply") and exists("fkjax.sketch.base")
    for name in ("fkjax.basis", "fkjax.base.Models", "fkjax.base.Model.no"):
        assert not exists(name), name
