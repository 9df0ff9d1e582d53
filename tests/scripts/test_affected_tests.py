"""scripts/affected_tests.py: every kind of dependence, on a small project."""

import subprocess
import sys

import pytest
from affected_tests import ROOT, ImportGraph, changed_files

FILES = {
    "pyproject.toml": "",
    "README.md": "",
    "data/numbers/one.csv": "",
    "scripts/draw.py": "import pens\n",
    "scripts/pens.py": "",
    "box/__init__.py": "from box.lid import Lid\nfrom box.wall import Wall\n__all__ = ['Lid']\n",
    "box/__main__.py": "from box import tool\n",
    "box/lid.py": "class Lid: ...\n",
    "box/wall.py": "from . import fast\nclass Wall: ...\n",
    "box/tool.py": "def run():\n    from box import page\n",
    "box/page.py": "TEMPLATE = 'page.html'\n",
    "box/page.html": "",
    "box/child.py": "",
    "docs/conf.py": "",
    "docs/pens.md": "",
    "docs/old/pens.md": "",
    "box/fast/__init__.py": "from box.fast import _kernels\n",
    "box/fast/csrc/CMakeLists.txt": "",
    "box/fast/csrc/kernels.cpp": "",
    "tests/__init__.py": "",
    "tests/conftest.py": "pytest_plugins = ['tests.fixtures']\n",
    "tests/fixtures.py": "",
    "tests/helper.py": "import box.wall\n",
    "tests/test_lid.py": "from box import Lid\n",
    "tests/test_attribute.py": "import box\nbox.Wall()\n",
    "tests/test_alias.py": "import box as b\nb.Wall()\n",
    "tests/test_helper.py": "'''Not box.child.'''\nfrom tests.helper import box\n",
    "tests/test_process.py": "COMMAND = ['-m', 'box']\n",
    "tests/test_string.py": "CODE = 'import box.child'\nFILE = '../README.md'\n",
    "tests/test_child.py": "import box.child\n",
    "tests/far/test_child_too.py": "import box.child\n",
    "tests/test_data.py": "FOLDER = ROOT / 'numbers'\n",
    "tests/test_docs.py": "PAGES = ROOT / 'docs'\n",
    "tests/test_script.py": "SCRIPT = 'scripts/draw.py'\n",
    "tests/test_style.py": "(ROOT / 'box').rglob('*.py')\n",
    "tests/test_alone.py": "import os\n",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def reached(root):
    graph = ImportGraph(root)

    def names(*changed):
        tests = graph.tests_reached_by(changed)
        return [
            name.removeprefix("tests/").removeprefix("test_").removesuffix(".py") for name in tests
        ]

    return names


def test_of_equal_steps_its_own_test_is_nearest_and_one_of_another_folder_farthest(reached):
    assert reached("box/child.py")[:3] == ["child", "string", "far/test_child_too"]


def test_a_name_leads_to_the_module_that_defines_it_and_past_its_siblings(reached):
    assert reached("box/lid.py")[0] == "lid"
    assert reached("box/wall.py")[:3] == ["alias", "attribute", "helper"]
    assert "lid" in reached("box/wall.py")  # its package imports both


def test_imports_within_functions_and_files_named_in_strings(reached):
    assert reached("box/page.html") == reached("box/page.py") == ["process", "style"]


def test_a_page_reaches_whoever_names_its_top_folder(reached):
    assert reached("docs/old/pens.md") == ["docs"]


def test_modules_named_in_strings_but_not_in_docstrings(reached):
    assert "string" in reached("box/child.py")
    assert "helper" not in reached("box/child.py")
    assert reached("README.md") == ["string"]
    assert reached("data/numbers/one.csv") == ["data"]


def test_a_script_and_the_neighbour_that_it_imports(reached):
    assert reached("scripts/draw.py") == reached("scripts/pens.py") == ["script"]


@pytest.mark.parametrize("name", ["kernels.cpp", "CMakeLists.txt"])
def test_the_sources_of_a_compiled_module_reach_whoever_imports_it(reached, name):
    assert reached(f"box/fast/csrc/{name}")[:3] == ["alias", "attribute", "helper"]


def test_everything_depends_on_its_conftest_and_on_the_configuration(reached):
    tests = sum("/test_" in name for name in FILES)
    assert len(reached("tests/conftest.py")) == tests
    assert len(reached("tests/fixtures.py")) == tests
    assert len(reached("pyproject.toml")) == tests


def test_a_changed_test_comes_first_and_an_unrelated_one_never(reached):
    assert reached("box/lid.py", "tests/test_data.py")[0] == "data"
    assert "alone" not in reached("box/lid.py", "box/page.py", "box/child.py")


def test_an_unknown_file_is_an_error(reached):
    with pytest.raises(KeyError, match="box/none"):
        reached("box/none.py")


def test_what_differs_from_the_last_commit(root):
    def git(*arguments):
        subprocess.run(["git", "-C", root, *arguments], check=True, capture_output=True)

    git("init")
    git("add", ".")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-m", "first")
    (root / "box" / "lid.py").write_text("changed = 1\n")
    (root / "box" / "new.py").write_text("")
    assert changed_files(root) == ["box/lid.py", "box/new.py"]
    assert "box/new.py" in ImportGraph(root).files


@pytest.mark.slow
def test_a_data_set_reaches_whoever_loads_it_by_name():
    found = ImportGraph(ROOT).tests_reached_by(["groupnorm/data/sets/digits.py"])
    assert {"tests/data/test_catalog.py", "tests/run/test_train.py"} <= set(found)


@pytest.mark.slow
def test_on_this_project():
    command = [sys.executable, "scripts/affected_tests.py", "scripts/affected_tests.py"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", cwd=ROOT, check=True)
    assert "tests/scripts/test_affected_tests.py" in done.stdout.split()
