"""Named mirrors: what starts by itself. `mirrors.toml` says which folders, when, and who is told.

`file` reads it, `schedule` decides what is due (pure), `memory` is what a mirror remembers, `watch` sees
changes, `notify` tells people, and `keeper` is the one thread that does all of it. Nothing here talks to a
store: a mirror's run is an ordinary job. Read `schedule` first.
"""
