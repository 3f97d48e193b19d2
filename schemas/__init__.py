"""Avro contracts of every topic, and their codecs."""
