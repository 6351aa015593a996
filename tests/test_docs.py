import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from exfm_components.run_config import read_run_config

REPOSITORY = Path(__file__).parents[1]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
RULES = REPOSITORY / "manifests/components/monitoring/rules.yaml"


def without_code(text: str) -> str:
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Return a page's anchors, as GitHub makes them of its headings."""
    text = without_code(page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    made = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return made | set(re.findall(r'<a id="([^"]+)">', text))


def links(page: Path) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text(encoding="utf-8")))


def broken(link: str, page: Path) -> bool:
    name, _, anchor = link.partition("#")
    target = (page.parent / name).resolve() if name else page
    return not target.exists() or (bool(anchor) and anchor not in anchors(target))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_within_the_documentation_leads_somewhere(page: Path) -> None:
    found = [link for link in links(page) if not link.startswith("http")]
    assert [link for link in found if broken(link, page)] == []


def test_a_link_to_a_heading_that_is_not_there_is_broken(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# What is `x_y` (1)?\n\n```sh\n# a comment\n```\n")
    assert not broken("#what-is-x_y-1", page)
    assert broken("#a-comment", page)
    assert broken("gone.md", page)


def test_every_alert_names_the_manuals_row_about_it() -> None:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["spec"]["groups"]
    alerts = {rule["alert"]: rule["annotations"]["runbook_url"] for group in groups for rule in group["rules"]}
    assert len(alerts) >= 11
    assert alerts == {alert: f"docs/operating.md#{alert.lower()}" for alert in alerts}
    assert [link for link in alerts.values() if broken(link, REPOSITORY / "README.md")] == []


def test_the_manual_has_at_most_300_lines_and_3400_words() -> None:
    text = (REPOSITORY / "docs/operating.md").read_text(encoding="utf-8")
    assert text.count("\n") <= 300
    assert len(text.split()) <= 3_400


@pytest.mark.slow
def test_the_blocks_of_das_md_run_one_after_the_other(tmp_path: Path) -> None:
    """A block that begins with a file's name is that file, other YAML is a part of run.yaml; the rest runs."""
    text = (REPOSITORY / "docs/das.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(python|sh|yaml)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 10
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for language, block in blocks:
        if named := re.match(r"# (\w+\.(?:py|yaml))\n", block):
            (tmp_path / named[1]).write_text(block, encoding="utf-8")
            continue
        if language == "yaml":
            changed = tmp_path / "changed.yaml"
            whole = yaml.safe_load((tmp_path / "run.yaml").read_text(encoding="utf-8")) | yaml.safe_load(block)
            changed.write_text(yaml.safe_dump(whole), encoding="utf-8")
            read_run_config(changed)
            continue
        program = [sys.executable, "-c"] if language == "python" else ["bash", "-ec"]
        done = subprocess.run(
            [*program, block], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"
