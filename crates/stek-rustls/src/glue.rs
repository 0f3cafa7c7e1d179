//! One module for each TLS library and encoding. Only what is below knows how a library encodes its
//! sessions, or answers its calls for a connection.

pub(crate) mod rustls_0_23;
