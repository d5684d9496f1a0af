"""Writes captions to a file in the order of the clips; an interrupted call can be continued."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crab_lightning.captioners.base import Captioner, CaptionerError
from crab_lightning.captioners.clips import Clip
from crab_lightning.files import appended, read_json, remove_cut_line, replace_json, replace_text, whole_lines
from crab_lightning.in_order import in_order

Progress = Callable[[str, int, int], None]


@dataclass
class CaptionReport:
    """The result of a call.

    Args:
        added: Number of captions that were written.
        known: Number of clips whose caption was already in the file.
        refused: Path of a clip without a caption -> reason.
    """

    added: int = 0
    known: int = 0
    refused: dict[str, str] = field(default_factory=dict)


def write_captions(
    clips: Sequence[Clip], captioner: Captioner, out: Path, progress: Progress | None = None
) -> CaptionReport:
    """Write ``{"id", "audio", "caption"}`` of each clip to a JSONL file, which stage 1 reads.

    The rows are in the order of ``clips``, for any number of parallel calls. An interrupted call leaves
    complete rows, and the same call continues after them. Clips without a caption are tried again.

    Args:
        clips: The clips.
        captioner: The captioner.
        out: File to write. The path of a clip in the folder of this file is stored relative to the folder.
        progress: Function that gets the name of the work, the number of finished clips and the number of all.

    Returns:
        The numbers of captions, and the clips without a caption.

    Raises:
        CaptionerError: If the captioner cannot continue, the file was written with other settings, or the
            file has a damaged row.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    _same_settings(out, captioner)
    names = {_name(clip, out): clip for clip in clips}
    rows = _read_rows(out)
    open_names = [name for name in names if name not in rows]
    report = CaptionReport(known=len(names) - len(open_names))
    groups = [open_names[i : i + captioner.group] for i in range(0, len(open_names), captioner.group)]

    def describe(group: list[str]) -> list[str | Exception]:
        return captioner.describe([names[name].path for name in group])

    answered = in_order(describe, groups, captioner.parallel, 2 * captioner.parallel)
    try:
        with appended(out) as file, closing(answered):
            for asked, answers in answered:
                for name, answer in zip(asked, answers, strict=True):
                    if isinstance(answer, Exception):
                        report.refused[name] = str(answer)
                        continue
                    row = {"id": names[name].recording, "audio": name, "caption": answer}
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
                    rows[name] = row
                    report.added += 1
                file.flush()
                if progress is not None:
                    done = report.known + report.added + len(report.refused)
                    progress("captions", done, len(names))
    except CaptionerError as err:
        raise CaptionerError(
            f"{err}\n{report.known + report.added:,} of {len(names):,} captions are in {out}; start the"
            f" same command again to continue"
        ) from err
    _put_in_order(out, rows, list(names))
    return report


def _name(clip: Clip, out: Path) -> str:
    """Return a clip's path relative to the folder of the file if it is inside, else its absolute path."""
    path, folder = clip.path.absolute(), out.parent.absolute()
    return (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()


def _same_settings(out: Path, captioner: Captioner) -> None:
    """Write the captioner's settings beside the file; raise an error if the file has other settings."""
    beside, wanted = out.with_name(out.name + ".settings.json"), captioner.settings
    if out.is_file() and out.stat().st_size:
        if not beside.is_file():
            raise CaptionerError(
                f"{out} contains captions, but {beside.name}, which has the settings of these captions, is "
                "missing. Give another --out"
            )
        found = read_json(beside, "Give another --out")
        if changed := [key for key in {**found, **wanted} if found.get(key) != wanted.get(key)]:
            key = changed[0]
            raise CaptionerError(
                f"{out} was begun with {key} {found.get(key)!r}, but this call has {wanted.get(key)!r}. Use"
                f" the earlier value, or give another --out"
            )
        return
    replace_json(beside, wanted, indent=1)


def _read_rows(out: Path) -> dict[str, Any]:
    """Return the rows of the file by path; an incomplete last line is removed from the file."""
    remove_cut_line(out)
    rows = {}
    for number, line in enumerate(whole_lines(out), start=1):
        try:
            row = json.loads(line)
            rows[row["audio"]] = {key: row[key] for key in ("id", "audio", "caption")}
        except (ValueError, KeyError, TypeError) as err:
            raise CaptionerError(
                f"{out}, line {number} is not a caption row: {line[:80]!r} ({err!r}). Correct the line or "
                "remove it"
            ) from err
    return rows


def _put_in_order(out: Path, rows: dict[str, Any], order: Sequence[str]) -> None:
    """Rewrite the file if its rows are not in order, because clips were refused at first or added later."""
    asked = set(order)
    wanted = [name for name in order if name in rows] + [name for name in rows if name not in asked]
    if wanted == list(rows):
        return
    replace_text(out, "".join(json.dumps(rows[name], ensure_ascii=False) + "\n" for name in wanted))
