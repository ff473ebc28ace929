"""Corpora of science and mathematics: open textbooks, lectures, and ASL STEM Wiki with its fingerspelled terms."""
