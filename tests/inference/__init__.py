"""Tests of engine and worker."""
