"""What travels: the envelope, the event that a handler gets, and the rules of the wire."""
