"""The documentation works: its commands run and print what it shows, every cited file exists."""

import re
import subprocess
from pathlib import Path
from typing import Final

import pytest
from broker_engines import free_port
from shown_commands import blocks, check_shown, commands, environment, play

ROOT: Final = Path(__file__).parent.parent
PAGES: Final = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *ROOT.glob("docs/*.md"))
}
README: Final = PAGES["README.md"]
ALL: Final = "\n".join(PAGES.values())
#: The pages' broker listens here; the test gives it a free port.
PORT: Final = "1883"
#: The same of the web page.
WEB: Final = "8080"
#: Ends what the first two blocks left running.
END_JOBS: Final = "kill %2; wait %2\nkill %1; wait %1"


@pytest.mark.network
@pytest.mark.process
def test_the_quickstart_of_the_readme_prints_what_it_shows(tmp_path: Path) -> None:
    ports = {PORT: str(free_port()), WEB: str(free_port())}
    assert len(play(README, tmp_path, ports, last=END_JOBS)) == 4


@pytest.mark.network
@pytest.mark.process
@pytest.mark.timeout(200)
def test_the_demo_prints_the_proof_of_the_readme() -> None:
    done = subprocess.run(["facewire", "demo"], env=environment(), capture_output=True, text=True, check=False, timeout=180)
    assert done.returncode == 0, done.stderr
    check_shown(blocks(README, "text")[0], done.stdout)


@pytest.mark.network
@pytest.mark.process
def test_the_commands_of_the_command_line_page_print_what_it_shows(tmp_path: Path) -> None:
    play(PAGES["docs/cli.md"], tmp_path, {PORT: str(free_port())}, last=END_JOBS)
    assert "facewire" in (tmp_path / "facewire.bash").read_text()


def test_the_settings_of_the_command_line_page_are_settings(tmp_path: Path) -> None:
    (settings,) = blocks(PAGES["docs/cli.md"], "toml")
    (tmp_path / "settings.toml").write_text(settings)
    command = ["facewire", "--config", str(tmp_path / "settings.toml"), "device", "run", "--help"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("shown", "printed"),
    [("a 1", "a 2"), ("a", "a\nb"), ("a\nb", "a"), ("a … c", "a b d"), ("…\nz", "a\nb")],
)
def test_output_that_differs_from_the_page_is_found(shown: str, printed: str) -> None:
    with pytest.raises(AssertionError, match="The page shows"):
        check_shown(shown, printed)


def test_only_what_the_page_leaves_open_may_vary() -> None:
    check_shown("…\na  … c\n", "x\ny\na b   c\n")
    check_shown("a\n", "a\nb\n", begins=True)


def test_every_make_target_of_the_documentation_exists() -> None:
    targets = set(re.findall(r"make ([a-z]+(?:-[a-z]+)*)", "".join(re.findall(r"`[^`\n]+`|^```.*?^```", ALL, re.MULTILINE | re.DOTALL))))
    assert {"demo", "setup", "test", "bench-ingest"} <= targets
    makefile = (ROOT / "Makefile").read_text()
    benches = {f"bench-{path.stem.removeprefix('bench_')}" for path in (ROOT / "tests" / "bench").glob("bench_*.py")}
    assert {target for target in targets - benches if not re.search(rf"^{target}:", makefile, re.MULTILINE)} == set()


def test_make_help_lists_every_target() -> None:
    listed = subprocess.run(["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = set(re.findall(r"^([a-z%-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)) - {"layout"}
    assert {line.split()[0] for line in listed.splitlines()} == targets
    benches = {path.stem.removeprefix("bench_") for path in (ROOT / "tests" / "bench").glob("bench_*.py")}
    assert [bench for bench in benches if not re.search(rf"\b{bench}\b", listed)] == []


@pytest.mark.process
@pytest.mark.parametrize("bench", sorted((ROOT / "tests" / "bench").glob("bench_*.py")), ids=lambda path: path.stem)
def test_every_benchmark_starts_as_make_starts_it(bench: Path) -> None:
    done = subprocess.run(["python", bench, "--help"], env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_command_is_shown_in_the_documentation() -> None:
    missing = [" ".join(words) for words, _ in commands() if not re.search(_shown(words), ALL)]
    assert missing == []


def _shown(words: tuple[str, ...]) -> str:
    """Matches a command in full, or in the table of commands: `facewire GROUP NAME`, `NAME`, ..."""
    *group, name = words
    return rf"facewire {' '.join(words)}\b|`{' '.join(['facewire', *group])} [a-z]+`(, `[a-z]+`)*, `{name}`"


@pytest.mark.parametrize("words", [(), *(words for words, _ in commands())], ids=" ".join)
def test_help_fits_80_columns(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = subprocess.run(["facewire", *words, "--help"], env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert [line for line in done.stdout.splitlines() if len(line) > 80] == []
    assert "-h, --help" not in done.stdout


def test_prose_keeps_to_120_columns() -> None:
    """Lines of prose: neither a table nor a block of code."""
    prose = {name: re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL) for name, page in PAGES.items()}
    wide = {f"{name}: {line}" for name, page in prose.items() for line in page.splitlines() if len(line) > 120 and not line.startswith("|")}
    assert wide == set()


#: A path in prose, a comment or a link: it begins with a folder of ours, or names a page.
CITED: Final = re.compile(
    r"(?<![\w/.$-])((?:(?:broker|device|platform|tests|docs)/[\w./-]+|[A-Z]{4,}|README)\.(?:md|py|mjs|json|yaml|toml|png|csv|sql))\b"
)
#: A link of a page, from its folder.
LINK: Final = re.compile(r"\]\((?!https?:)([^)#\s]+)(#[^)]*)?\)")


#: It must not be there, and is named for that: it would shadow the standard library's `platform`.
ABSENT: Final = {"platform/__init__.py"}


def test_every_file_that_is_cited_is_in_the_repository() -> None:
    files = set(subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines())
    texts = [name for name in files if name.endswith((".md", ".py", ".toml", ".mjs", ".yaml")) or name in {"Makefile", ".ci/run"}]
    # The sources of test data are in other repositories.
    texts = [name for name in texts if not name.startswith("tests/data/")]
    cited = {(name, found) for name in texts for found in CITED.findall((ROOT / name).read_text(encoding="utf-8"))}
    assert ("broker/facewire/messages.py", "docs/contract.md") in cited
    assert {(name, found) for name, found in cited if found not in files | ABSENT} == set()


def test_every_link_of_a_page_leads_somewhere() -> None:
    broken = set()
    for name, page in PAGES.items():
        for target, anchor in LINK.findall(page):
            path = ((ROOT / name).parent / target).resolve()
            if not path.exists() or (anchor and anchor[1:] not in _anchors(path.read_text(encoding="utf-8"))):
                broken.add((name, target + anchor))
    assert broken == set()


def _anchors(page: str) -> set[str]:
    """The headings, as GitHub names them."""
    headings = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
