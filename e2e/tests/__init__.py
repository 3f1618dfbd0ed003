"""Tests of what the stories are made of; they need no cluster."""
