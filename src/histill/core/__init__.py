"""The nouns: what passes between the rooms. No torch here."""
