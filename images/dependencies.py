"""Print pyproject.toml with its dependencies only: a new version or linter setting does not rebuild their layers.

python3 dependencies.py pyproject.toml
"""

import json
import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["project"]
extras = {name: wanted for name, wanted in sorted(project["optional-dependencies"].items()) if name != "dev"}
print('[project]\nname = "exfm"\nversion = "0"')
print(f"dependencies = {json.dumps(project['dependencies'])}\n\n[project.optional-dependencies]")
for name, wanted in extras.items():
    print(f"{name} = {json.dumps(wanted)}")
