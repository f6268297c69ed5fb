"""What runs an attempt: one module a kind, registered by entry point."""
