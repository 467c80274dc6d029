"""What is allowed: settings, API keys, origins and URLs.

From the environment to checked `Settings`. Imports nothing else of the service.
"""
