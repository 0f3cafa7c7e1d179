//! What went over one connection, kept while it is looked at: the bytes of both directions and the
//! one secret under which tickets of TLS 1.3 are sent.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use rustls::KeyLog;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use zeroize::Zeroizing;

/// The most bytes that are kept of each direction; tickets come early.
const MAX_BYTES: usize = 256 * 1024;

/// The label of the secret, as key logs have it.
const SERVER_SECRET: &str = "SERVER_TRAFFIC_SECRET_0";

/// A recording. Clones share it; it ends with the last one.
#[derive(Clone, Default)]
pub(super) struct Tape(Arc<Mutex<Recorded>>);

#[derive(Default)]
struct Recorded {
    sent: Vec<u8>,
    received: Vec<u8>,
    secret: Option<Zeroizing<Vec<u8>>>,
}

impl Tape {
    /// Records what is read from and written to `inner`.
    pub(super) fn around<S>(&self, inner: S) -> Recording<S> {
        Recording { inner, tape: self.clone() }
    }

    /// What the client sent.
    pub(super) fn sent(&self) -> Vec<u8> {
        self.lock().sent.clone()
    }

    /// What the server sent.
    pub(super) fn received(&self) -> Vec<u8> {
        self.lock().received.clone()
    }

    /// The server's first application traffic secret, in TLS 1.3.
    pub(super) fn secret(&self) -> Option<Zeroizing<Vec<u8>>> {
        self.lock().secret.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Recorded> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Tape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tape").finish_non_exhaustive()
    }
}

impl KeyLog for Tape {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        if label == SERVER_SECRET {
            self.lock().secret = Some(Zeroizing::new(secret.to_vec()));
        }
    }

    fn will_log(&self, label: &str) -> bool {
        label == SERVER_SECRET
    }
}

fn keep(tape: &mut Vec<u8>, bytes: &[u8]) {
    let room = MAX_BYTES - tape.len();
    tape.extend_from_slice(&bytes[..bytes.len().min(room)]);
}

/// A stream that is recorded.
#[derive(Debug)]
pub(super) struct Recording<S> {
    inner: S,
    tape: Tape,
}

impl<S: AsyncRead + Unpin> AsyncRead for Recording<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buffer))?;
        keep(&mut self.tape.lock().received, &buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Recording<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write(cx, bytes))?;
        keep(&mut self.tape.lock().sent, &bytes[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
