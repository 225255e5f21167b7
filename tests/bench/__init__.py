"""Tests of the measurements: their arithmetic, and that each runs."""
