"""Freshet for rankers: fresh, versioned features of users and items from Redis in one round trip."""
