"""Why a connection could not be made or went away, in one line that names the other side."""

from __future__ import annotations

import socket
import ssl

__all__ = ["connect_reason", "loss_reason", "tls_reason"]


def connect_reason(error: OSError, endpoint: str) -> str:
    """Why there is no connection to `endpoint`, `host:port` or the path of a Unix socket."""
    match error:
        case ConnectionRefusedError():
            return f"connection refused by {endpoint}"
        case FileNotFoundError():
            return f"no such socket {endpoint}"
        case PermissionError():
            return f"no permission to connect to {endpoint}"
        case socket.gaierror():
            host = endpoint.rpartition(":")[0]
            return f"cannot look up the host {host!r}: {_words(error)}"
        case ssl.SSLError():
            return tls_reason(error, endpoint)
        case ConnectionResetError() | BrokenPipeError() | ConnectionAbortedError():
            return f"connection reset by {endpoint} before it was ready"
        case _:
            return f"cannot connect to {endpoint}: {_words(error)}"


def tls_reason(error: ssl.SSLError, endpoint: str) -> str:
    """Why the TLS handshake with `endpoint` failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        why = f"certificate verify failed: {error.verify_message or error.reason}"
    else:
        why = (error.reason or str(error)).replace("_", " ").lower()
    return f"TLS handshake with {endpoint} failed: {why}"


def loss_reason(error: Exception, endpoint: str) -> str:
    """Why a connection to `endpoint` that was made is no more."""
    match error:
        case ConnectionResetError() | BrokenPipeError() | ConnectionAbortedError():
            return f"connection reset by {endpoint}"
        case ssl.SSLError():
            return f"TLS failure with {endpoint}: {(error.reason or str(error)).replace('_', ' ').lower()}"
        case _:
            return f"connection to {endpoint} lost: {_words(error)}"


def _words(error: Exception) -> str:
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return " ".join(text.split())
