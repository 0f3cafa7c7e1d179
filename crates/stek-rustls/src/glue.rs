//! One module for each TLS library and encoding. What is below is all that knows how a library
//! encodes its sessions, and answers its calls for tickets and sessions of connections.

pub(crate) mod rustls_0_23;
