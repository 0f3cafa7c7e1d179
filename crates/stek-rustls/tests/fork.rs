//! A real fork in the middle of a pool: parent and child draw on, and no nonce is drawn twice. A
//! program of its own, without a harness, since only the thread that forks lives on in the child.

use std::collections::HashSet;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use fork::Fork;
use stek_rustls::{NonceSource, PooledNonces};

const NONCE_LEN: usize = 24;
/// Stands still, so that randomness alone keeps nonces apart.
const BOOT: Duration = Duration::from_secs(1000);
/// More than one pool holds.
const DRAWS: usize = 300;

fn draw(count: usize) -> Vec<[u8; NONCE_LEN]> {
    (0..count).map(|_| PooledNonces.draw(BOOT).expect("randomness")).collect()
}

fn child(path: &Path) -> std::io::Result<()> {
    std::fs::File::create(path)?.write_all(draw(DRAWS).as_flattened())
}

fn main() {
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("child");
    let before = draw(3);
    let forked = fork::fork().expect("a fork");
    let pid = match forked {
        Fork::Parent(pid) => pid,
        Fork::Child => std::process::exit(i32::from(child(&path).is_err())),
    };
    let after = draw(DRAWS);
    fork::waitpid(pid).expect("the child ends");
    let bytes = std::fs::read(&path).expect("what the child drew");
    let (drawn, rest) = bytes.as_chunks::<NONCE_LEN>();
    assert_eq!((drawn.len(), rest.len()), (DRAWS, 0));
    let all: Vec<_> = before.iter().chain(&after).chain(drawn).collect();
    let distinct: HashSet<_> = all.iter().collect();
    assert_eq!(distinct.len(), 3 + 2 * DRAWS, "a nonce was drawn by parent and child");
}
