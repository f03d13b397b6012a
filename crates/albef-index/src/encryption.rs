//! Encrypted connections to PostgreSQL.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::database::{Database, Roots};
use crate::error::{IndexError, Result};

/// What makes an encrypted connection.
pub(crate) fn connector(database: &Database, roots: &Roots) -> Result<MakeRustlsConnect> {
    Ok(MakeRustlsConnect::new(config(database, roots)?))
}

fn config(database: &Database, roots: &Roots) -> Result<ClientConfig> {
    let fail = |cause: String| IndexError::Database { place: database.to_string(), cause };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| fail(e.to_string()))?;
    let builder = match roots {
        Roots::System => builder.with_platform_verifier().map_err(|e| fail(e.to_string()))?,
        Roots::File(path) => builder.with_root_certificates(read(path).map_err(|cause| {
            fail(format!("certificates (sslrootcert) in {}: {cause}", path.display()))
        })?),
    };
    Ok(builder.with_no_client_auth())
}

fn read(path: &Path) -> std::result::Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|e| e.to_string())? {
        let certificate = certificate.map_err(|e| e.to_string())?;
        roots.add(certificate).map_err(|e| e.to_string())?;
    }
    if roots.is_empty() {
        return Err("there is none in this file, which must be in PEM".into());
    }
    Ok(roots)
}
