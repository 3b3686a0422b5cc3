"""What makes runs doubtful: atoms that wander, cells that drift, change their shape, or lag behind, wrong pressures."""

import numpy as np
from jaxtyping import Float

from alchemjax.tasks.free_energy.estimators import LEAST_SAMPLES, mean_of, sure
from alchemjax.units import EV_PER_A3_IN_GPA

SURE = 0.01  # chance of a false alarm, where limits are passed by chance at all
MOST_DRIFT = 0.005  # of the volume, or strain at constant volume, between the halves of a run at rest
MOST_LAG = 0.01  # the same, between the end of a switch and the rest that follows it
MOST_SHEARED = 0.05  # strain at constant volume, from the structure that was given
MOST_COLD = 0.03  # of the temperature that is asked for, by which that of a rest may differ
WANDERING = 0.45  # of the distance of neighbours, by which the site that moves most is displaced on the average
VOIGT = (0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1)
MEASURES = ("volume", "xx", "yy", "zz", "yz", "xz", "xy")
TESTS = dict.fromkeys(MEASURES, 6) | {"volume": 1}  # of one kind, which must be sure together


def surely(samples: float, tests: int = 1) -> float:
    """How many standard errors of so many samples are no accident (Student), in one of several tests."""
    return sure(samples, 1 - SURE / tests)


def strain_of(start: Float[np.ndarray, "3 3"], cell: Float[np.ndarray, "... 3 3"]) -> Float[np.ndarray, "... 6"]:
    """Strain of cells from that of the start, U - 1 with the stretch U, without rotations (Voigt, no factors of 2)."""
    turn = np.linalg.inv(start) @ cell
    squares, axes = np.linalg.eigh(turn @ np.swapaxes(turn, -1, -2))
    stretch = (axes * np.sqrt(squares)[..., None, :]) @ np.swapaxes(axes, -1, -2)
    return (stretch - np.eye(3))[(..., *VOIGT)]


def measures_of(strain: Float[np.ndarray, "... 6"]) -> Float[np.ndarray, "... 7"]:
    """Relative change of the volume, and the strain at constant volume."""
    stretch = np.zeros((*strain.shape[:-1], 3, 3))
    stretch[(..., *VOIGT)] = stretch[(..., *VOIGT[::-1])] = strain
    stretch += np.eye(3)
    volume = np.linalg.det(stretch)
    shape = (stretch / np.cbrt(volume)[..., None, None] - np.eye(3))[(..., *VOIGT)]
    return np.concatenate([volume[..., None] - 1, shape], axis=-1)


def doubts_of_rest(
    strain: Float[np.ndarray, "samples replicas 6"], where: str, *, alike: bool, free: bool = False
) -> list[str]:
    """Of a cell that should be at rest: drifts between the halves, and a shape that is far from the one at the start.

    `alike`: replicas repeat each other, and their scatter is the error. Otherwise each is judged by its own samples, if
    these are many. `free`: whether all strains are free, so that the volume does not force a shape on the cell.
    """
    if len(strain) < 2:
        return []
    measures = measures_of(strain)
    halves = np.array_split(measures, 2)
    drift = halves[1].mean(0) - halves[0].mean(0)
    if alike:
        drift, error = drift.mean(0)[None], _chance(drift)[None]
    else:
        noise = [
            [_noise(*one) for one in zip(MEASURES, series.T, strict=True)] for series in np.moveaxis(measures, 1, 0)
        ]
        error = np.array(noise)
    found = _drifts(drift, error, where)
    sheared = measures[..., 1:].mean(axis=(0, 1) if alike else 0)
    if free and (most := np.abs(sheared).max()) > MOST_SHEARED:
        found.append(
            f"the shape of the cell is strained by {100 * most:.1f} per cent {where}, from the structure that was "
            "given: the crystal may have changed its phase"
        )
    return found


def _chance(each: Float[np.ndarray, "replicas measures"]) -> Float[np.ndarray, "measures"]:
    """What the mean over replicas may be by chance."""
    if len(each) < 2:
        return np.full(len(MEASURES), np.inf)
    limit = np.array([surely(len(each), tests) for tests in TESTS.values()])
    return limit * each.std(axis=0, ddof=1) / len(each) ** 0.5


def _noise(name: str, series: Float[np.ndarray, "samples"]) -> float:
    """By how much means of both halves may differ by chance; infinite where too few samples are independent."""
    time = np.arange(len(series)) - (len(series) - 1) / 2
    steady = mean_of(series - series.mean() - time * (time @ series) / (time @ time))
    return 2 * steady.error * surely(steady.samples / 2, TESTS[name]) if steady.samples > 2 * LEAST_SAMPLES else np.inf


def _drifts(drift, error, where: str) -> list[str]:
    """Of the volume, and of the component of the shape that drifts most; of the replica where it is largest."""
    over = np.where(np.abs(drift) > np.maximum(MOST_DRIFT, error), drift, 0)
    volume = over[np.abs(over[:, 0]).argmax(), 0]
    shape = over[:, 1:].reshape(-1)[np.abs(over[:, 1:]).argmax()]
    name = MEASURES[1 + np.abs(over[:, 1:]).argmax() % 6]
    found = [f"the volume drifts by {100 * volume:+.1f} per cent {where}; equilibrate for longer"] if volume else []
    if shape:
        found.append(
            f"the shape of the cell drifts by {100 * shape:+.1f} per cent ({name}) {where}; equilibrate for longer"
        )
    return found


def doubts_of_lag(
    switched: Float[np.ndarray, "end replicas 6"], rest: Float[np.ndarray, "settled replicas 6"], where: str
) -> list[str]:
    """Of the cell at the end of a switch, if it is not that of equilibrium there."""
    each = measures_of(switched).mean(axis=0) - measures_of(rest).mean(axis=0)
    lag = np.abs(each.mean(axis=0))
    over = np.where(lag > np.maximum(MOST_LAG, _chance(each)), lag, 0)
    if not over.any():
        return []
    what = "volume" if over.argmax() == 0 else f"shape ({MEASURES[over.argmax()]})"
    return [
        f"a switch that arrives {where} leaves the cell {100 * over.max():.1f} per cent away from equilibrium there "
        f"({what}): it jumps, as in a change of phase, or lags behind; switch more slowly, with a shorter "
        "barostat time"
    ]


def doubts_of_warmth(temperature: Float[np.ndarray, "samples replicas"], wanted: float, where: str) -> list[str]:
    """Of a rest that is colder or warmer than asked for [K]."""
    each = temperature.mean(axis=0)
    error = surely(len(each)) * each.std(ddof=1) / len(each) ** 0.5 if len(each) > 1 else np.inf
    if not abs(each.mean() - wanted) > max(MOST_COLD * wanted, error):
        return []
    return [
        f"{where} the temperature is {each.mean():.0f} K instead of {wanted:g}; equilibrate for longer, or take a "
        "smaller time step"
    ]


def doubts_of_places(away: float, near: float, where: str = "") -> list[str]:
    """What to say of the mean displacement of the site that moves most [A], where neighbours are `near` [A]."""
    if not away > WANDERING * near:
        return []
    return [
        f"{where}a site is {away:.2f} A from where it belongs, where neighbours are {near:.2f} A apart: the crystal "
        "melts, changes its phase, or atoms wander"
    ]


def doubts_of_pressure(measured, pressure: float, space: float, bulk_modulus: float, error: float) -> list[str]:
    """Of a free energy F(V) that becomes G = F + PV [eV], if the cell V [A^3] is not that of the pressure [eV/A^3].

    `measured`: the pressure that the crystal has in it. What this changes, V (dP)^2 / 2B, counts from `error` [eV] on.
    """
    apart = measured.value - pressure
    change = space * apart**2 / (2 * bulk_modulus)
    if not (abs(apart) > surely(measured.samples) * measured.error and change > error):
        return []
    in_gpa = EV_PER_A3_IN_GPA
    return [
        f"the crystal has a pressure of {in_gpa * apart:+.2f} GPa from the one that is imposed, which changes G of the "
        f"cell by {1000 * change:.1f} meV if its bulk modulus is {in_gpa * bulk_modulus:.0f} GPa (as --bulk-modulus "
        "says): it is not the mean cell at this temperature and pressure, which longer runs know better"
    ]
