"""What the benchmarks of engines share: workloads, the machine's limits, processes, tables and charts."""
