"""The service as processes, with engines that do what a job says: for tests, bench and soak."""
