use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

type Nonce = [u8; NONCE_LEN];

/// The number of a process, which a test changes as a fork does.
#[derive(Clone)]
struct Process {
    now: Arc<AtomicUsize>,
    seen: usize,
}

impl Process {
    fn new() -> Self {
        Self { now: Arc::default(), seen: 0 }
    }
}

impl ForkDetector for Process {
    fn forked(&mut self) -> bool {
        let now = self.now.load(Ordering::Relaxed);
        std::mem::replace(&mut self.seen, now) != now
    }
}

/// Never notices a fork.
#[derive(Clone)]
struct Blind;

impl ForkDetector for Blind {
    fn forked(&mut self) -> bool {
        false
    }
}

impl<D: Clone> Clone for Pool<D> {
    fn clone(&self) -> Self {
        let detector = self.detector.clone();
        Self { nonces: self.nonces.clone(), left: self.left, detector }
    }
}

const BOOT: Duration = Duration::from_secs(1000);

/// Draws at a boot time that stands still, so that randomness alone keeps nonces apart.
fn draw<D: ForkDetector>(pool: &mut Pool<D>, count: usize) -> Vec<Nonce> {
    (0..count).map(|_| pool.draw(BOOT, fill_from_kernel).unwrap()).collect()
}

fn distinct(nonces: &[Nonce]) -> usize {
    nonces.iter().collect::<HashSet<_>>().len()
}

fn common(one: &[Nonce], two: &[Nonce]) -> usize {
    let one: HashSet<_> = one.iter().collect();
    two.iter().filter(|nonce| one.contains(nonce)).count()
}

#[test]
fn refills_bring_no_nonce_twice() {
    let mut pool = Pool::new(Blind);
    let count = CAPACITY * 20 + 1;
    assert_eq!(distinct(&draw(&mut pool, count)), count);
}

#[test]
fn a_broken_source_is_seen() {
    let mut pool = Pool::new(Blind);
    let same = |bytes: &mut [u8]| {
        bytes.fill(7);
        Ok(())
    };
    let nonces: Vec<_> = (0..CAPACITY).map(|_| pool.draw(BOOT, same).unwrap()).collect();
    assert_eq!(distinct(&nonces), 1);
}

#[test]
fn threads_draw_no_nonce_twice() {
    let draw = || (0..5_000).map(|_| PooledNonces.draw(BOOT).unwrap()).collect::<Vec<_>>();
    let all: Vec<_> = std::thread::scope(|threads| {
        let drawing: Vec<_> = (0..4).map(|_| threads.spawn(draw)).collect();
        drawing.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(distinct(&all), 20_000);
}

#[test]
fn a_fork_between_refills_throws_away_what_was_inherited() {
    let process = Process::new();
    let mut parent = Pool::new(process.clone());
    draw(&mut parent, 3);
    let mut child = parent.clone();
    let other = Arc::new(AtomicUsize::new(1));
    child.detector.now = other;
    let (parent, child) = (draw(&mut parent, CAPACITY), draw(&mut child, CAPACITY));
    assert_eq!(common(&parent, &child), 0);

    // One that does not notice repeats all that was left: the test can fail.
    let mut parent = Pool::new(Blind);
    draw(&mut parent, 3);
    let mut child = parent.clone();
    let (parent, child) = (draw(&mut parent, CAPACITY), draw(&mut child, CAPACITY));
    assert_eq!(common(&parent, &child), CAPACITY - 3);
}

#[test]
fn copies_that_nobody_notices_differ_by_boot_time() {
    let mut original = Pool::new(Blind);
    draw(&mut original, 3);
    let (mut one, mut two, mut three) = (original.clone(), original.clone(), original);
    let at = |pool: &mut Pool<Blind>, boot| pool.draw(boot, fill_from_kernel).unwrap();
    let nonce = at(&mut one, BOOT);
    assert_ne!(nonce, at(&mut two, BOOT + Duration::from_nanos(1)));
    // At one nanosecond they would agree, so it is the boot time that keeps them apart.
    assert_eq!(nonce, at(&mut three, BOOT));
}

#[test]
fn consumed_bytes_are_erased() {
    let mut pool = Pool::new(Blind);
    draw(&mut pool, 3);
    let (left, consumed) = pool.nonces.split_at(pool.left);
    assert_eq!(consumed, [[0; NONCE_LEN]; 3]);
    assert!(left.iter().all(|nonce| *nonce != [0; NONCE_LEN]));
}

#[test]
fn without_randomness_there_is_no_nonce() {
    let mut pool = Pool::new(Blind);
    for _ in 0..2 {
        assert_eq!(pool.draw(BOOT, |_| Err(NoRandomness)), Err(NoRandomness));
    }
    draw(&mut pool, 1);
}
