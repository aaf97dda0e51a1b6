"""Looks at preference pairs before any training: what is lost, wrong, repeated or too easy."""
