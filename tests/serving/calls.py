"""Run in a process of its own: huggingface_hub reads its environment when it is imported.

``calls.py IN OUT``: IN is a JSON list of {"call", "token", ...arguments}; OUT gets one answer each: {"value"} or
{"error", "message"}. Calls are methods of ``HfApi``, the package's download functions, and ``sha256`` of a download.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import huggingface_hub


def plain(value: Any) -> Any:
    """What a test looks at."""
    if type(value) in (str, int, float, bool, type(None)):
        return value
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)) or hasattr(value, "__next__"):
        return [plain(one) for one in value]
    if not hasattr(value, "__dict__"):
        return str(value)  # a date
    return {key: plain(one) for key, one in vars(value).items() if not key.startswith("_")}


def done(call: str, token: str | None, arguments: dict[str, Any]) -> Any:
    """One call of the real client."""
    if call == "sha256":
        path = huggingface_hub.hf_hub_download(token=token or False, **arguments)
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    if call == "snapshot":
        folder = Path(huggingface_hub.snapshot_download(token=token or False, **arguments))
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    if call == "commit":
        operations = [
            huggingface_hub.CommitOperationAdd(path, content.encode()) for path, content in arguments["files"].items()
        ]
        more = {key: value for key, value in arguments.items() if key != "files"}
        return huggingface_hub.HfApi(token=token or False).create_commit(operations=operations, **more)
    return getattr(huggingface_hub.HfApi(token=token or False), call)(**arguments)


def main() -> None:
    """Every call in turn."""
    answers = []
    for one in json.loads(Path(sys.argv[1]).read_text()):
        call, token = one.pop("call"), one.pop("token", None)
        try:
            answers.append({"value": plain(done(call, token, one))})
        except Exception as error:
            answers.append({"error": type(error).__name__, "message": str(error)})
    Path(sys.argv[2]).write_text(json.dumps([huggingface_hub.__version__, answers]))


if __name__ == "__main__":
    main()
