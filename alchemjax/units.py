"""Units at the surface: eV, Angstrom, amu, fs, K; GPa only in what is printed and plotted."""

EV_PER_A3_IN_GPA = 160.21766208  # 1 eV/A^3 in GPa (CODATA 2014, as in ASE)
KELVIN = 8.617330337217213e-05  # Boltzmann's constant, eV/K (CODATA 2014, as in ASE)
FS = 0.09822694788464063  # 1 fs in units of A (amu/eV)^(1/2), the unit of time where eV, A and amu are units
