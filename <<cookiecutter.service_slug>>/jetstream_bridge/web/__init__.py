"""Routers for health, metrics and administration, and the operator's console."""
