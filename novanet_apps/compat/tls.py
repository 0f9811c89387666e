"""TLS contexts: one for each listener or client, made once."""

from __future__ import annotations

from eventlet.green import ssl

from .errors import ConfigurationError


def make_server_context(
    certificate: str, private_key: str, ca: str | None = None, minimum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
) -> ssl.SSLContext:
    """A context for a listener. With ``ca``, every client has to show a certificate that these authorities signed.

    The arguments name PEM files. Raises ConfigurationError when one cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _load(context, certificate, private_key, ca, minimum)
    context.verify_mode = ssl.CERT_REQUIRED if ca else ssl.CERT_NONE
    return context


def make_client_context(certificate: str, private_key: str, ca: str) -> ssl.SSLContext:
    """A context for connections that NovaNet opens: shows its certificate and checks the server's, not its host name.

    Hypervisors are known by address, and OVS's own certificates (ovs-pki(8)) carry no host name. Raises
    ConfigurationError when a file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    _load(context, certificate, private_key, ca, ssl.TLSVersion.TLSv1_3)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def _load(context: ssl.SSLContext, certificate: str, private_key: str, ca: str | None, minimum: ssl.TLSVersion) -> None:
    context.minimum_version = minimum
    try:
        context.load_cert_chain(certificate, private_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"TLS certificate {certificate} with private key {private_key} cannot be loaded: {error.strerror or error}; "
            "both must be readable PEM files that belong together"
        ) from error
    if ca is None:
        return
    try:
        context.load_verify_locations(ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"TLS CA certificates {ca} cannot be loaded: {error.strerror or error}; it must be a readable PEM file"
        ) from error
