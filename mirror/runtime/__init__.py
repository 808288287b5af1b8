"""What every room runs on: thread pools, single flight, the memory tier, the clock."""
