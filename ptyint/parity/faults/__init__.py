"""Seeded faults: does the ladder go red, and where?"""
