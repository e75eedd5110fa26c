"""Documentation is executed: commands run, links lead somewhere, generated pages are fresh."""

import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
# of a page whose blocks are the same in both languages one is run, and they are compared
TWINS = [
    (ROOT / "README.md", ROOT / "README.zh-CN.md"),
    (DOCS / "guide.md", DOCS / "guide.zh-CN.md"),
]
PAGES = [*(one for one, _ in TWINS), *sorted(DOCS.glob("textbook*.md")), DOCS / "jobs.md"]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def builder():
    os.environ["COLUMNS"] = "80"
    return runpy.run_path(str(ROOT / "docs" / "build.py"))


def test_links_lead_somewhere(builder):
    assert builder["broken_links"]() == []


def test_generated_pages_are_what_the_code_says():
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "build.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"COLUMNS": "80"},
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("pages", TWINS, ids=lambda pages: pages[0].name)
def test_both_languages_have_the_same_blocks(pages):
    """Comments are in the page's own language; the rest is what the English page runs."""
    blocks = [
        [(kind, re.sub(r"\s*#.*", "", body)) for _, kind, body in commands(page)] for page in pages
    ]
    assert blocks[0] == blocks[1] and blocks[0]


def test_both_pages_of_jobs_name_the_same_flags():
    """Each run of the English page takes its time; the Chinese one has the same commands."""
    flags = []
    for name in ("jobs.md", "jobs.zh-CN.md"):
        text = (ROOT / "docs" / name).read_text(encoding="utf-8")
        runs = [body.split() for kind, body in BLOCK.findall(text) if kind == "sh"]
        flags.append([[word for word in run if word not in ("en", "zh")] for run in runs])
    assert flags[0] == flags[1]


def commands(page):
    """(number, kind, body) of every block that is to run."""
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [
        (number, kind, body)
        for number, (kind, body) in enumerate(found)
        if kind in ("sh", "python")
    ]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_runs_in_order(page, tmp_path):
    """`sh` and `python` blocks run in one folder; `text` and `console` blocks only show."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "YANTAI_PRETRAIN_THREADS": "1",
    }
    for number, kind, body in commands(page):
        if body.startswith(("git clone", "make ", "pip ")):
            for line in body.strip().splitlines():
                words = shlex.split(line, comments=True)
                if words[:1] == ["make"]:
                    makefile = (ROOT / "Makefile").read_text()
                    assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), line
            continue
        command = ["bash", "-euc", body] if kind == "sh" else [sys.executable, "-c", body]
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, env=environment, check=False
        )
        assert done.returncode == 0, f"{page.name}, block {number}: {done.stderr[-800:]}"


@pytest.mark.slow
def test_the_tour_walks_through(tmp_path, capsys):
    tour = runpy.run_path(str(ROOT / "tour.py"))
    tour["main"](tmp_path, steps=4)
    assert "bits per byte" in capsys.readouterr().out
    assert len((ROOT / "tour.py").read_text().splitlines()) <= 130


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("formulas*.md")), ids=lambda p: p.name)
def test_lines_beside_formulas_are_those_of_the_source(page):
    excerpt = re.compile(r'^```python title="([\w/]+\.py)"\n(.*?)^```', re.DOTALL | re.MULTILINE)
    found = excerpt.findall(page.read_text(encoding="utf-8"))
    assert len(found) >= 15
    for path, code in found:
        source = (ROOT / "src" / "yantai" / path).read_text(encoding="utf-8")
        stripped = "\n".join(line.strip() for line in source.splitlines())
        wanted = "\n".join(line.strip() for line in code.splitlines())
        assert wanted in stripped, f"{path}: {code}"


def test_both_pages_of_formulas_show_the_same_lines():
    one, other = (
        re.findall(
            r"^```python.*?^```", (ROOT / "docs" / name).read_text(), re.DOTALL | re.MULTILINE
        )
        for name in ("formulas.md", "formulas.zh-CN.md")
    )
    assert one == other
