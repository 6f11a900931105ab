"""A release and what people have said since → its successor, if it is one.

    labels (pinned) ─► confirmed ┐
    catalogue ──────► parts ─────┴─► taught ─► tune ─► assemble ─► compare ─► gate ─► model card
    champion ───────► restore ───────────────────┘                    ▲
                                                       frozen sets ───┘

`run` takes the steps in order; each leaves a file in the run's folder, and a run that was killed goes on behind the
last one. Nothing is published or announced here: `streamer.retrain` does, if the gate lets the challenger through.
"""
