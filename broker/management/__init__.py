"""The management interface: health checks, metrics, an API and a console over HTTP, in the front's event loop."""

from __future__ import annotations

from broker.management.server import Management

__all__ = ["Management"]
