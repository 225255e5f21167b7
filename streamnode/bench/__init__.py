"""Measurements that a user can repeat: models beside other runtimes, many streams through one worker, whole nodes."""
