"""What a service publishes and handles, as documents, and what breaks when it changes."""
