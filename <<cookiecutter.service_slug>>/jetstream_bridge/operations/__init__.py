"""What an operator sees and does: dead letters, listings, statistics, metrics."""
