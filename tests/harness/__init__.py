"""What the tests of real processes and real sockets share: the broker under test and a client to judge it by.

Nothing here imports the product: a mistake in its codec must not hide behind the same mistake here.
"""
