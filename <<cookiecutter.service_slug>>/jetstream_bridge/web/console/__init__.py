"""The operator's console at `/admin`: pages for a person, rendered here, that need no other host.

A page shows and changes nothing that `Operations` does not. `ConsoleLogin` lets nobody in without a
session, and a session opens the console only: the API under /admin takes the token alone.
"""
