"""Writes every file that differs from what it is to be: `python -m tools.reference`, which `make reference` runs."""

from pathlib import Path

from tools.reference.files import ROOT, made

if __name__ == "__main__":
    for name, text in made().items():
        path = ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {Path(name)}")  # noqa: T201  # it is a command
