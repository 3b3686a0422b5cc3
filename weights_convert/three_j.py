"""Real 3j symbols in float64, to find the signs a network was trained with."""

import functools
from math import factorial, sqrt

import numpy as np


def _clebsch_gordan(l1: int, m1: int, l2: int, m2: int, l3: int, m3: int) -> float:
    """Racah's formula for <l1 m1 l2 m2 | l3 m3>."""
    if m1 + m2 != m3:
        return 0.0
    f = factorial
    norm = (2 * l3 + 1) * f(l3 + l1 - l2) * f(l3 - l1 + l2) * f(l1 + l2 - l3) / f(l1 + l2 + l3 + 1)
    norm *= f(l3 + m3) * f(l3 - m3) * f(l1 - m1) * f(l1 + m1) * f(l2 - m2) * f(l2 + m2)
    total = 0.0
    for k in range(max(0, l2 - l3 - m1, l1 - l3 + m2), min(l1 + l2 - l3, l1 - m1, l2 + m2) + 1):
        below = f(k) * f(l1 + l2 - l3 - k) * f(l1 - m1 - k) * f(l2 + m2 - k)
        total += (-1) ** k / (below * f(l3 - l2 + m1 + k) * f(l3 - l1 - m2 + k))
    return sqrt(norm) * total


def _to_real(degree: int) -> np.ndarray:
    """Complex (rows, m = -degree..degree) to real components; (-i)^degree makes the real 3j symbols real."""
    change = np.zeros((2 * degree + 1, 2 * degree + 1), complex)
    change[degree, degree] = 1
    for m in range(1, degree + 1):
        plus, minus = degree + m, degree - m
        change[minus, plus], change[minus, minus] = 1 / sqrt(2), -1j / sqrt(2)
        change[plus, plus], change[plus, minus] = (-1) ** m / sqrt(2), 1j * (-1) ** m / sqrt(2)
    return (-1j) ** degree * change


@functools.cache
def three_j(l1: int, l2: int, l3: int) -> np.ndarray:
    """Return the real 3j tensor C[i, j, k] of unit Frobenius norm.

    C = Re sum Q1[a, i] Q2[b, j] conj(Q3[c, k]) <l1 a l2 b | l3 c> / norm
    """
    complex_3j = np.zeros((2 * l1 + 1, 2 * l2 + 1, 2 * l3 + 1))
    for a, b, c in np.ndindex(complex_3j.shape):
        complex_3j[a, b, c] = _clebsch_gordan(l1, a - l1, l2, b - l2, l3, c - l3)
    changes = [_to_real(l1), _to_real(l2), _to_real(l3).conj()]
    real_3j = np.einsum("ai,bj,ck,abc->ijk", *changes, complex_3j).real
    return real_3j / np.linalg.norm(real_3j)
