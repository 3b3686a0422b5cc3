"""A schedule of molecular dynamics: a CSV file of what is imposed when."""

from pathlib import Path

from alchemjax.commands.compositions import csv_lines, csv_numbers
from alchemjax.system.sites import Sites, weight_names
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
    header, lines = csv_lines(path)
    weights = [name for name in header if name in names]
    if "time_fs" not in header or set(header) - {"time_fs", *COLUMNS, *names} or len(set(header)) < len(header):
        allowed = ", ".join([*COLUMNS, *names])
        raise ValueError(
            f"'{path}' has the columns {', '.join(header) or '(none)'}; give time_fs and some of {allowed}"
        )
    if weights and sorted(weights) != sorted(names):
        raise ValueError(f"'{path}' has the weights {', '.join(weights)}; give all of {', '.join(names)}, or none")
    schedule: dict[str, list[tuple]] = {}
    for where, cells in lines:
        row = _numbers(where, header, cells)
        for name, (quantity, unit) in COLUMNS.items():
            if (value := row.get(name)) is not None:
                schedule.setdefault(quantity, []).append((row["time_fs"], value / unit))
        given = [row[name] for name in names] if weights else []
        if any(x is not None for x in given):
            if None in given:
                raise ValueError(f"{where}: some weights are empty; give all of them, or none")
            schedule.setdefault("weights", []).append((row["time_fs"], given))
    if not schedule:
        raise ValueError(f"'{path}' imposes nothing; give at least one line with a number beside its time")
    return schedule


def _numbers(where: str, header: list[str], cells: list[str]) -> dict[str, float | None]:
    """Numbers of one line by column, None for an empty cell; the time may not be empty."""
    empty = {name for name, text in zip(header, cells, strict=False) if not text.strip()}
    row = csv_numbers(where, header, [text if text.strip() else "nan" for text in cells])
    if "time_fs" in empty:
        raise ValueError(f"{where}: time_fs is empty; every line needs a time")
    return {name: None if name in empty else value for name, value in row.items()}
