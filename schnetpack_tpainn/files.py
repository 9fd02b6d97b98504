"""Files that are whole or not there, and what tells them apart."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from schnetpack_tpainn.errors import TPaiNNError

__all__ = ["claim_directory", "file_sha256", "write_json", "write_text"]


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


def claim_directory(
    directory: Path,
    settings: Mapping[str, Any],
    what: str,
    option: str = "--directory",
    error: type[TPaiNNError] = TPaiNNError,
) -> None:
    """Take a new folder for something that can be gone on with, or find the same thing in it.

    Args:
        directory: the folder; made if it is not there.
        settings: JSON-serialisable settings that decide the result, kept in ``settings.json``.
        what: what the folder is for, for messages.
        option: what sets the folder, likewise.
        error: class of the error.

    Raises:
        TPaiNNError: it holds something with other settings, or other files.
    """
    mark = directory / "settings.json"
    if mark.is_file():
        found, wanted = json.loads(mark.read_text("utf-8")), json.loads(json.dumps(settings))
        keys = sorted(k for k in wanted.keys() | found.keys() if wanted.get(k) != found.get(k))
        if keys:
            changes = (f"{k}: expected {wanted.get(k)}, got {found.get(k)}" for k in keys)
            raise error(
                f"{directory} holds a {what} with other settings ({'; '.join(changes)}); restore "
                f"them to resume it, or choose another {option}"
            )
        return
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise error(
            f"expected a new folder or one of a {what}, got {directory} with other files; choose "
            f"another {option}"
        )
    directory.mkdir(parents=True, exist_ok=True)
    write_json(mark, settings)


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's content.

    Args:
        path: the file.

    Returns:
        Its hexadecimal digest.
    """
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
