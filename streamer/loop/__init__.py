"""`streamer loop`: alerts, people, a retraining, a swap under load, all on this machine, and what it was good for."""
