#!/bin/sh
# Nuclear repulsion energy and bond lengths of molecule.xyz (XYZ file, in Angstrom).
# Writes energy.txt (Hartree) and bonds.csv (Angstrom). Needs a POSIX awk only.
set -eu

# Decimal points, not commas, whatever the machine's language is.
LC_ALL=C awk '
BEGIN {
    bohr = 0.529177210903   # Angstrom
    charge["H"] = 1;  radius["H"] = 0.31
    charge["C"] = 6;  radius["C"] = 0.76
    charge["N"] = 7;  radius["N"] = 0.71
    charge["O"] = 8;  radius["O"] = 0.66
}
function fail(text) { print "molecule.xyz: " text > "/dev/stderr"; failed = 1; exit 1 }
FNR == 1 { expected = $1 + 0; next }
FNR == 2 || NF == 0 { next }
{
    if (!($1 in charge)) fail("no data for element " $1)
    if (NF < 4) fail("line " FNR " has no three coordinates")
    symbol[++n] = $1; x[n] = $2; y[n] = $3; z[n] = $4
}
END {
    if (failed) exit 1
    if (n != expected || n == 0) {
        print "molecule.xyz: " n + 0 " atoms, not " expected > "/dev/stderr"
        exit 1
    }
    print "atom_1,atom_2,length_angstrom" > "bonds.csv"
    for (i = 1; i < n; i++)
        for (j = i + 1; j <= n; j++) {
            r = sqrt((x[i] - x[j])^2 + (y[i] - y[j])^2 + (z[i] - z[j])^2)
            energy += charge[symbol[i]] * charge[symbol[j]] * bohr / r
            # Bonded: closer than the covalent radii and a quarter.
            if (r < 1.25 * (radius[symbol[i]] + radius[symbol[j]]))
                printf "%s%d,%s%d,%.4f\n", symbol[i], i, symbol[j], j, r > "bonds.csv"
        }
    printf "%.6f\n", energy > "energy.txt"
    printf "%d atoms, nuclear repulsion energy %.6f Hartree\n", n, energy
}
' molecule.xyz
