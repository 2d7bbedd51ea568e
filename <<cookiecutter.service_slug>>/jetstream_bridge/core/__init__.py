"""What all else stands on: errors, configuration, clock, tasks, leases."""
