//! What has to be known of a session before it may become a ticket, whatever TLS library encoded
//! it. How it is read is the glue's; what follows from it is [`crate::connection`]'s.

/// The protocol under which a session was begun. rustls resumes within one version only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TlsVersion {
    Tls12,
    Tls13,
}

/// A session as far as an adapter may look into it. The secret is not among it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Session<'a> {
    pub(crate) version: TlsVersion,
    /// The client's own certificate, DER, if it proved one.
    pub(crate) client_certificate: Option<&'a [u8]>,
}

/// Reads the encoding of one TLS library; `None` for whatever is not exactly that.
pub(crate) type ReadSession = fn(&[u8]) -> Option<Session<'_>>;
