"""From a trained codec to a bundle: tables counted on photos and clips, files exported, figures measured.

`pack` does it all and is what `frankenstream train pack` calls; `tables` counts, `stickiness` chooses how streams are
refreshed, `bundle_figures` says what the result is worth (through the very files that ship: `shipped`), and
`reference_figures` what a server's drift is compared with.
"""
