"""What a process of a service runs on: settings, database, logs, health, start and stop."""
