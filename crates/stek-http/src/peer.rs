//! Who is at the other end of a connection, as far as the transport can tell.

use std::net::SocketAddr;
use std::sync::Arc;

use http::Extensions;

use crate::{ClientCertificate, Standing};

/// The other end of the connection on which a request came. Every request of a
/// [`Server`](crate::Server) carries one in its extensions: take it in a handler as
/// `Extension<Peer>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Address and port of the client, or of the proxy in front of it. No header can change it.
    pub addr: SocketAddr,
    /// How the bytes came.
    pub channel: Channel,
}

/// How the bytes of a connection are protected.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Channel {
    /// Plain HTTP: anyone on the path can read and change it.
    Plain,
    /// TLS 1.3. The server has proved who it is; so has the client if its certificate is there.
    Tls(Option<Arc<ClientCertificate>>),
}

/// What is known of where a request comes from. Without a [`Server`](crate::Server) that is nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Origin<'a> {
    pub(crate) peer: Option<&'a Peer>,
    pub(crate) standing: Option<&'a Standing>,
}

impl<'a> Origin<'a> {
    /// That of the request with these extensions.
    pub(crate) fn of(extensions: &'a Extensions) -> Self {
        Self { peer: extensions.get(), standing: extensions.get() }
    }

    /// Puts it where [`Self::of`] finds it.
    pub(crate) fn put_into(self, extensions: &mut Extensions) {
        if let Some(peer) = self.peer {
            extensions.insert(peer.clone());
        }
        if let Some(standing) = self.standing {
            extensions.insert(standing.clone());
        }
    }
}
