//! TLS with libpq's meanings of `sslmode`: `prefer` and `require` encrypt, `verify-ca` also checks who signed the server's
//! certificate, `verify-full` also that it is for the host.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::settings::Settings;
use crate::failure::Failure;

/// How far a server's certificate is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verify {
    /// Not at all.
    Nothing,
    /// Who signed it.
    Authority,
    /// Who signed it, and for which host.
    Full,
}

/// What the settings ask for. As in libpq, `require` with a file of roots is `verify-ca`.
pub(crate) fn verification(settings: &Settings) -> Result<Verify, Failure> {
    match settings.get("sslmode").map_or("prefer", String::as_str) {
        "disable" | "allow" | "prefer" => Ok(Verify::Nothing),
        "require" if settings.contains_key("sslrootcert") => Ok(Verify::Authority),
        "require" => Ok(Verify::Nothing),
        "verify-ca" => Ok(Verify::Authority),
        "verify-full" => Ok(Verify::Full),
        other => Err(Failure::usage(
            format!("sslmode \"{other}\" is not known"),
            "It is one of disable, prefer, require, verify-ca, verify-full.".to_owned(),
        )),
    }
}

/// The connector for these settings.
pub(crate) fn connector(settings: &Settings) -> Result<MakeRustlsConnect, Failure> {
    let provider = Arc::new(ring::default_provider());
    let verify = verification(settings)?;
    let roots = match verify {
        Verify::Nothing => RootCertStore::empty(),
        _ => roots(settings.get("sslrootcert").map(String::as_str))?,
    };
    let local = |error: Error| Failure::local("TLS cannot be set up", error);
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(local)?;
    let inner = match verify {
        Verify::Nothing => None,
        _ => Some(
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .build()
                .map_err(|error| Failure::local("the root certificates cannot be used", error))?,
        ),
    };
    let verifier = Arc::new(Verifier { verify, inner, provider });
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let config = match (settings.get("sslcert"), settings.get("sslkey")) {
        (Some(certificate), Some(key)) => {
            builder.with_client_auth_cert(certificates(certificate)?, private_key(key)?).map_err(local)?
        }
        (None, None) => builder.with_no_client_auth(),
        _ => {
            return Err(Failure::usage(
                "sslcert and sslkey belong together".to_owned(),
                "Give both or neither.".to_owned(),
            ));
        }
    };
    Ok(MakeRustlsConnect::new(config))
}

/// The roots in a file; the system's without one, or with the word `system`.
fn roots(file: Option<&str>) -> Result<RootCertStore, Failure> {
    let mut store = RootCertStore::empty();
    match file {
        None | Some("system") => {
            let found = rustls_native_certs::load_native_certs();
            store.add_parsable_certificates(found.certs);
        }
        Some(path) => {
            for certificate in certificates(path)? {
                store
                    .add(certificate)
                    .map_err(|error| Failure::local(format!("{path} is no root certificate"), error))?;
            }
        }
    }
    Ok(store)
}

fn certificates(path: &str) -> Result<Vec<CertificateDer<'static>>, Failure> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| Failure::local(format!("the certificates in {path} cannot be read"), error))
}

fn private_key(path: &str) -> Result<PrivateKeyDer<'static>, Failure> {
    PrivateKeyDer::from_pem_file(path)
        .map_err(|error| Failure::local(format!("the key in {path} cannot be read"), error))
}

#[derive(Debug)]
struct Verifier {
    verify: Verify,
    inner: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(inner) = &self.inner else {
            return Ok(ServerCertVerified::assertion());
        };
        match inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is looked at last, so the chain is good.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.verify == Verify::Authority => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
