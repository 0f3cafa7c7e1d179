//! One module for each TLS library and encoding. What is below is all that knows how a library
//! encodes its sessions and how it asks for tickets.

pub(crate) mod rustls_0_23;
