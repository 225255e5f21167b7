"""Tests of streamnode: real LSL on loopback, a real broker, golden values."""
