//! TLS with rustls (feature `postgres-tls`): the certificate's chain and its host name are verified.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::base::error::Error;

/// Whether this build has TLS.
pub(super) const AVAILABLE: bool = true;

/// Returns a connector that trusts this authority, in PEM, or the system's.
///
/// # Errors
/// If there is no certificate to trust.
pub(super) fn connector(authority: Option<&[u8]>) -> Result<MakeRustlsConnect, Error> {
    let refused = |error: &dyn std::fmt::Display| {
        let message = format!("postgres: no certificate authority to trust: {error}; set one with .ca_certificate(…)");
        Error::store(message, error.to_string())
    };
    let mut roots = RootCertStore::empty();
    match authority {
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate = certificate.map_err(|error| refused(&error))?;
                roots.add(certificate).map_err(|error| refused(&error))?;
            }
        }
        None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    if roots.is_empty() {
        return Err(refused(&"none found"));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|error| refused(&error))?.with_root_certificates(roots).with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}
