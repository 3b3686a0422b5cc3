"""Units at the surface: eV, Angstrom, amu, fs, K; GPa only in what is printed and plotted."""

EV_PER_A3_IN_GPA = 160.21766208  # 1 eV/A^3 in GPa (CODATA 2014, as in ASE)
