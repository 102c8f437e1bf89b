"""A file from the net, whole or not at all: a download that is cut off goes on where it stopped.

The bytes that came are in FILE.part; FILE.part.json beside it says which version of the remote file they belong to
(address, validator, length). A server that ignores Range, or whose file has changed meanwhile, starts it afresh.
FILE.json beside the finished file holds its address and length, the check where no checksum is known.
Source: RFC 9110, sections 8.8 (validators), 13.1.5 (If-Range) and 14 (range requests).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_TRIES = 4  # in a row without a single new byte
_PAUSE = 1.0  # seconds before the second try, doubled before each further one
_BLOCK = 1 << 16  # bytes; what is lost at most when a connection breaks
_PASSING = {408, 425, 429, 500, 502, 503, 504}  # answers of a server that may do better a moment later


class Failed(Exception):
    """The file could not be had; the text completes a sentence that begins with the file: "…, which …"."""


class _Unreachable(Exception):
    """No further try is worth while, for this reason."""


class _Broken(Exception):
    """This try failed; the next may succeed."""


def obtain(address: str, path: Path, checksum: str | None, timeout: float) -> None:
    """Have the file of `address` at `path`, downloading it unless what is there is whole.

    checksum: "md5:…" or "sha256:…", or None: then the length recorded when the file came must agree.
    timeout: seconds to wait for a connection, and for the next bytes of a stalled one.
    Raises Failed when it cannot be had (the part stays for the next run) or has another checksum (the part goes);
    OSError when `path` cannot be written.
    """
    if _whole(path, address, checksum):  # asked before the lock: a shared cache may be read-only
        return
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path):
        if _whole(path, address, checksum):  # another process has fetched it meanwhile
            return
        try:
            _download(address, part, timeout)
        except _Unreachable as error:
            raise Failed(f"could not be reached ({error})") from None
        if not _agrees(part, checksum):
            _forget(part)
            raise Failed(f"arrived with another checksum than {checksum}, so it was removed")
        part.replace(path)
        _forget(part)
        _write(_record(path), {"address": address, "size": _size(path)})


def _whole(path: Path, address: str, checksum: str | None) -> bool:
    """The file is there and is what its checksum or, without one, its record says."""
    if checksum is None:
        return path.is_file() and _read(_record(path)) == {"address": address, "size": _size(path)}
    return path.is_file() and _agrees(path, checksum)


def _agrees(path: Path, checksum: str | None) -> bool:
    import pooch

    return checksum is None or pooch.hashes.hash_matches(str(path), checksum)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time for one file: the jobs of a sweep ask for the same data in the same second."""
    with path.with_name(path.name + ".lock").open("w") as lock:
        # Windows has no fcntl and some network disks no locks: there the checksum alone must do.
        with suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _download(address: str, part: Path, timeout: float) -> None:
    """All bytes of `address` into `part`; raises _Unreachable after several tries in a row without progress."""
    import requests

    failures, furthest = 0, _size(part)
    with requests.Session() as session, _progress() as bar:
        # A compressed answer would have another length than the file, and could not be resumed.
        session.headers.update({"Accept-Encoding": "identity", "User-Agent": "stormcell"})
        task = bar.add_task(part.stem, total=None)
        while True:
            try:
                return _attempt(session, address, part, timeout, lambda **state: bar.update(task, **state))
            except (requests.RequestException, _Broken) as error:
                reason = _reason(error, timeout)
            failures = 1 if _size(part) > furthest else failures + 1
            furthest = max(furthest, _size(part))
            if failures >= _TRIES:
                raise _Unreachable(reason)
            time.sleep(_PAUSE * 2 ** (failures - 1))


def _forget(part: Path) -> None:
    """Remove a part and the record of what it is a part of."""
    part.unlink(missing_ok=True)
    _record(part).unlink(missing_ok=True)


def _attempt(session, address: str, part: Path, timeout: float, show) -> None:
    """Ask for the bytes that are missing and append them; raises _Broken when some are still missing."""
    seen = _read(_record(part))
    have = _size(part) if seen.get("address") == address else 0
    if have and have == seen.get("total"):  # the last run ended after the last byte
        return
    headers = {"Range": f"bytes={have}-"} if have else {}
    if have and seen.get("validator"):
        headers["If-Range"] = seen["validator"]
    with session.get(address, headers=headers, stream=True, timeout=timeout) as response:
        have, total = _place(response, have, seen, part)
        _write(_record(part), {"address": address, "validator": _validator(response), "total": total})
        show(total=total, completed=have)
        with part.open("ab" if have else "wb") as file:
            for block in response.iter_content(_BLOCK):
                file.write(block)
                have += len(block)
                show(completed=have)
    if total is not None and have != total:
        if have > total:
            _forget(part)
        raise _Broken(f"{have:,} of {total:,} bytes came")


def _place(response, have: int, seen: dict[str, Any], part: Path) -> tuple[int, int | None]:
    """From which byte the answer goes on, and how long the whole file is (None: the server does not say)."""
    status, headers = response.status_code, response.headers
    if status == 200:
        length = headers.get("Content-Length")
        if length is None and headers.get("Transfer-Encoding") != "chunked":
            raise _Unreachable("the server does not say how long the file is")
        return 0, None if length is None else int(length)
    if status == 206:
        span, _, length = headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        total = int(length) if length.isdigit() else None
        same = total == seen.get("total") and _validator(response) == seen.get("validator")
        if same and span.startswith(f"{have}-"):
            return have, total
    if status in (206, 416):
        _forget(part)
        raise _Broken("the file has changed since the download began")
    words = f"HTTP status {status} {response.reason or ''}".strip()
    raise (_Broken if status in _PASSING else _Unreachable)(words)


def _validator(response) -> str | None:
    """What If-Range may hold: a strong ETag, else the date of the file."""
    etag = response.headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")


def _reason(error: Exception, timeout: float) -> str:
    import requests

    if isinstance(error, _Broken):
        return str(error)
    if isinstance(error, requests.Timeout) or "timed out" in str(error).lower():
        return f"nothing came for {timeout:g} s"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off"
    return "no connection" if isinstance(error, requests.ConnectionError) else str(error)


def _progress():
    """Bytes, speed and time left, on a terminal only."""
    from rich import progress
    from rich.console import Console

    columns = [
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    ]
    return progress.Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty())


def _read(path: Path) -> dict[str, Any]:
    """The JSON record beside a file; empty where there is none or where it is damaged."""
    with suppress(OSError, ValueError):
        record = json.loads(path.read_text())
        return record if isinstance(record, dict) else {}
    return {}


def _write(path: Path, record: dict[str, Any]) -> None:
    path.write_text(json.dumps(record))


def _record(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
