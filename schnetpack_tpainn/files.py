"""Files that are whole or not there."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["write_json", "write_text"]


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON at once: a killed process leaves the old file or the new one.

    Args:
        path: the file.
        content: JSON-serialisable content.
    """
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text at once.

    Args:
        path: the file.
        text: its content.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
