"""Events that come in: registration, the worker, retries and dead letters."""
