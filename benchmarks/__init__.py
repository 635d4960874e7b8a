"""How fast it is, beside its peers: `make bench`. docs/benchmarks.md tells what was found."""
