"""What `benchmarks.bench_serve` is made of: compiled engines and client, arms, measurements."""
