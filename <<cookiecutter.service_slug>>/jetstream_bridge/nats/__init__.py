"""The connection to NATS, JetStream's management requests, publishing and pulling."""
