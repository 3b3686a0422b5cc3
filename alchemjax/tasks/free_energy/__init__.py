"""Free energies of solids along alchemical paths."""
