"""What the replica can draw: canvas, produce, animals, things, media, people, rooms, places."""
