//! A TCP proxy before Redis that can hold back the answers.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

/// The proxy. Its threads end with their connections, at the latest with the process.
pub struct Proxy {
    address: SocketAddr,
    gate: Arc<Gate>,
}

#[derive(Default)]
struct Gate {
    stalled: Mutex<bool>,
    changed: Condvar,
    /// Bytes that came from clients.
    asked: AtomicUsize,
}

impl Proxy {
    /// Lets everything through to the server at `socket`, for now.
    pub fn start(socket: &Path) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let gate = Arc::new(Gate::default());
        let (accepting, socket) = (Arc::clone(&gate), PathBuf::from(socket));
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if let Ok(server) = UnixStream::connect(&socket) {
                    connect(client, server, &accepting);
                }
            }
        });
        Self { address, gate }
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Answers are held back until [`Proxy::resume`].
    pub fn stall(&self) {
        *self.gate.stalled.lock().unwrap() = true;
    }

    pub fn resume(&self) {
        *self.gate.stalled.lock().unwrap() = false;
        self.gate.changed.notify_all();
    }

    /// How many bytes clients have sent so far.
    pub fn asked(&self) -> usize {
        self.gate.asked.load(Ordering::SeqCst)
    }
}

fn connect(client: TcpStream, server: UnixStream, gate: &Arc<Gate>) {
    client.set_nodelay(true).unwrap();
    let (mut from_client, mut to_server) =
        (client.try_clone().unwrap(), server.try_clone().unwrap());
    let asking = Arc::clone(gate);
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(read @ 1..) = from_client.read(&mut bytes) {
            asking.asked.fetch_add(read, Ordering::SeqCst);
            if to_server.write_all(&bytes[..read]).is_err() {
                break;
            }
        }
        let _ = to_server.shutdown(Shutdown::Both);
    });
    let (mut from_server, mut to_client, answering) = (server, client, Arc::clone(gate));
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(read @ 1..) = from_server.read(&mut bytes) {
            let stalled = answering.stalled.lock().unwrap();
            drop(answering.changed.wait_while(stalled, |stalled| *stalled).unwrap());
            if to_client.write_all(&bytes[..read]).is_err() {
                break;
            }
        }
        let _ = to_client.shutdown(Shutdown::Both);
    });
}
