"""Events on their way out: the tables, the publisher and the relay."""
