"""Prints the licences of all crates that are part of the program for a target: `licences.py TARGET`.

Each crate with its licence as its manifest has it, then the texts that come with it; a text that several
have is printed once.
"""

import json
import pathlib
import subprocess
import sys

NAMES = ("licen", "copying", "notice", "copyright", "unlicense")


def crates(target):
    """The packages that are linked in: reached from ours without build and test dependencies."""
    command = ["cargo", "metadata", "--format-version=1", "--locked", "--filter-platform", target]
    metadata = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    ours = next(it["id"] for it in packages.values() if it["name"] == "tfwrap" and not it["source"])
    seen, left = set(), [ours]
    while left:
        here = left.pop()
        if here in seen:
            continue
        seen.add(here)
        for needed in nodes[here]["deps"]:
            if any(kind["kind"] is None for kind in needed["dep_kinds"]):
                left.append(needed["pkg"])
    return sorted((packages[it] for it in seen - {ours}), key=lambda it: (it["name"], it["version"]))


def texts(package):
    """The licence files in the crate's directory."""
    directory = pathlib.Path(package["manifest_path"]).parent
    files = [path for path in directory.iterdir() if path.is_file() and path.name.lower().startswith(NAMES)]
    return [path.read_text(encoding="utf-8", errors="replace").strip() for path in sorted(files)]


def main():
    by_text = {}
    print("tfwrap contains these crates:\n")
    for package in crates(sys.argv[1]):
        name = f"{package['name']} {package['version']}"
        print(f"  {name}: {package['license'] or 'see its text'}")
        for text in texts(package):
            by_text.setdefault(text, []).append(name)
    for text, names in by_text.items():
        print(f"\n{'=' * 80}\n{', '.join(names)}\n{'=' * 80}\n\n{text}")


main()
