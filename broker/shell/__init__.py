"""What `stampede send` and `stampede subscribe` do with the client, between the shell and the broker.

Never blocks the loop on standard input or output, whose other ends may be slow: the client has to send heart-beats.
"""
