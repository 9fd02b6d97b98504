"""TPaiNN beside stock SchNetPack: ``python -m benchmarks``; see docs/benchmarks/speed.md."""
