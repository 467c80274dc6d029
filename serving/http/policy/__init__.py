"""What is allowed: settings, API keys, origins and URLs. Imports nothing of the service."""
