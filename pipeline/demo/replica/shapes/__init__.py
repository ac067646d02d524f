"""The drawings of the mock server: canvas, produce, animals, things, media, people, rooms, places."""
