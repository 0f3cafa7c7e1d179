//! That a command goes on: one line on standard error, where that is a terminal, drawn over itself. Of
//! one that takes longer than a second it is drawn each second and wiped away at the end.

use std::io::{IsTerminal, Write as _};
use std::pin::pin;
use std::time::Duration;

/// How often the line is drawn; what takes no longer is done without one.
const BEAT: Duration = Duration::from_secs(1);

/// Waits for `work`, and meanwhile says `words` and for how long.
pub(crate) async fn show<T>(words: impl Fn() -> String, work: impl Future<Output = T>) -> T {
    if !std::io::stderr().is_terminal() {
        return work.await;
    }
    let mut beat = tokio::time::interval(BEAT);
    // The first one is at once.
    beat.tick().await;
    let beats = async || {
        beat.tick().await;
    };
    watch(words, work, beats, draw).await
}

async fn watch<T>(
    words: impl Fn() -> String,
    work: impl Future<Output = T>,
    mut beat: impl AsyncFnMut(),
    mut draw: impl FnMut(&str),
) -> T {
    let mut work = pin!(work);
    let mut seconds = 0_u64;
    loop {
        tokio::select! {
            biased;
            done = &mut work => {
                if seconds > 0 {
                    draw("");
                }
                return done;
            }
            () = beat() => {
                seconds += 1;
                draw(&format!("{}: {seconds} s", words()));
            }
        }
    }
}

/// Draws the line over the one before, on a terminal.
#[allow(clippy::print_stderr, reason = "progress is not the result")]
pub(crate) fn draw(line: &str) {
    eprint!("\r\x1b[2K{line}");
    // Progress that cannot be shown is not worth failing for.
    let _ = std::io::stderr().flush();
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn what_takes_longer_than_a_second_is_told_and_wiped_away() {
        let (second, line, mut drawn) = (Notify::new(), Cell::new(0), Vec::new());
        let work = async {
            for page in 1..=2 {
                line.set(page * 1000);
                second.notify_one();
                tokio::task::yield_now().await;
            }
        };
        let (words, beat) = (|| format!("line {}", line.get()), async || second.notified().await);
        watch(words, work, beat, |line| drawn.push(line.to_owned())).await;
        assert_eq!(drawn, ["line 1000: 1 s", "line 2000: 2 s", ""]);
    }

    #[tokio::test]
    async fn what_is_done_sooner_shows_nothing() {
        let never = async || std::future::pending().await;
        watch(|| "busy".to_owned(), async {}, never, |line| panic!("{line}")).await;
    }
}
