"""The stream and its consumers: planned, made, and never taken away from others."""
