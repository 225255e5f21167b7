"""Tests of the models: golden values, real key manifests, contracts."""
