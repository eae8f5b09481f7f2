"""The asyncio STOMP client: `Client` reconnects and resumes; `Peer` is frames in, frames out."""
