"""A schedule of molecular dynamics: a CSV file of what is imposed when."""

import csv
from pathlib import Path

from alchemjax.commands.compositions import weight_names
from alchemjax.system.sites import Sites
from alchemjax.units import EV_PER_A3_IN_GPA

COLUMNS = {
    "temperature_K": ("temperature", 1.0),
    "pressure_GPa": ("pressure", EV_PER_A3_IN_GPA),
    "alpha": ("alpha", 1.0),
}


def read_schedule(sites: Sites, path: Path) -> dict[str, list[tuple]]:
    """{"temperature": [(time in fs, K), ...], "pressure": eV/A^3, "alpha": ..., "weights": lists} of the columns there.

    Columns are time_fs and some of temperature_K, pressure_GPa, alpha, and one `group:species` for every weight. A
    quantity is linear between the lines that give it; two lines with one time are a jump; an empty cell gives nothing.
    Errors: ValueError naming the line.
    """
    names = weight_names(sites)
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = [(number, row) for number, row in enumerate(csv.reader(file), start=1) if any(map(str.strip, row))]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"'{path}' is not a CSV file: {error}") from None
    header = [name.strip() for name in lines[0][1]] if lines else []
    weights = [name for name in header if name in names]
    if "time_fs" not in header or set(header) - {"time_fs", *COLUMNS, *names} or len(set(header)) < len(header):
        allowed = ", ".join([*COLUMNS, *names])
        raise ValueError(
            f"'{path}' has the columns {', '.join(header) or '(none)'}; give time_fs and some of {allowed}"
        )
    if weights and sorted(weights) != sorted(names):
        raise ValueError(f"'{path}' has the weights {', '.join(weights)}; give all of {', '.join(names)}, or none")
    schedule: dict[str, list[tuple]] = {}
    for number, cells in lines[1:]:
        row = _numbers(f"'{path}', line {number}", header, cells)
        for name, (quantity, unit) in COLUMNS.items():
            if (value := row.get(name)) is not None:
                schedule.setdefault(quantity, []).append((row["time_fs"], value / unit))
        given = [row[name] for name in names] if weights else []
        if any(x is not None for x in given):
            if None in given:
                raise ValueError(f"'{path}', line {number}: some weights are empty; give all of them, or none")
            schedule.setdefault("weights", []).append((row["time_fs"], given))
    if not schedule:
        raise ValueError(f"'{path}' imposes nothing; give at least one line with a number beside its time")
    return schedule


def _numbers(where: str, header: list[str], cells: list[str]) -> dict[str, float | None]:
    if len(cells) != len(header):
        raise ValueError(f"{where}: {len(cells)} values for {len(header)} columns")
    row: dict[str, float | None] = {}
    for name, text in zip(header, cells, strict=True):
        try:
            row[name] = float(text) if text.strip() else None
        except ValueError:
            raise ValueError(f"{where}, column {name}: '{text}' is not a number") from None
    if row["time_fs"] is None:
        raise ValueError(f"{where}: time_fs is empty; every line needs a time")
    return row
