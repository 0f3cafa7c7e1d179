//! When a follower asks, whom, and with which token. All times are boot time of the test's clock.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod common;

use std::time::Duration;

use common::material::{T0, bundle, tag};
use common::server::{Asked, Reply};
use common::{Bench, PATIENCE, no_wait, until};
use stek_client::{ClientOptions, KeysetFollower};
use stek_clock::Clock;

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);
/// Of the test policy.
const POLL_INTERVAL: Duration = Duration::from_secs(3);

async fn installed(bench: &mut Bench, options: &ClientOptions) -> (KeysetFollower, Asked) {
    let follower = bench.follow(options);
    bench.next().await.answer(Reply::bundle(&bundle(5)));
    let asked = bench.next().await;
    (follower, asked)
}

/// Answers `count` requests with `reply` and gives the times between the requests.
async fn gaps(
    bench: &mut Bench,
    mut asked: Asked,
    count: usize,
    reply: &Reply,
) -> (Vec<Duration>, Asked) {
    let mut gaps = vec![];
    for _ in 0..count {
        let at = asked.at;
        asked = bench.after(asked, reply.clone()).await;
        gaps.push(asked.at - at);
    }
    (gaps, asked)
}

fn mean(gaps: &[Duration]) -> Duration {
    gaps.iter().sum::<Duration>() / u32::try_from(gaps.len()).unwrap()
}

#[tokio::test]
async fn back_off_grows_and_stays_below_the_poll_interval() {
    for (is_installed, longest) in [(false, 5 * SECOND), (true, POLL_INTERVAL)] {
        let mut bench = Bench::new(1).await;
        let options = bench.options();
        let (_follower, asked) = if is_installed {
            installed(&mut bench, &options).await
        } else {
            (bench.follow(&options), bench.next().await)
        };
        let (gaps, _last) = gaps(&mut bench, asked, 60, &Reply::status(500)).await;
        for (n, gap) in gaps.iter().enumerate() {
            let bound = longest.min(250 * MILLI * (1 << n.min(10)));
            assert!(*gap <= bound, "gap {n} is {gap:?}, allowed is {bound:?}");
        }
        let late = mean(&gaps[10..]);
        assert!(late > longest / 4 && late < longest * 3 / 4, "mean {late:?} of {gaps:?}");
        assert_eq!(bench.metric("stek_client_polls_total", "refused"), 60.0);
    }
}

#[tokio::test]
async fn back_off_also_when_what_comes_is_refused() {
    let mut bench = Bench::new(1).await;
    let options = bench.options();
    let (_follower, asked) = installed(&mut bench, &options).await;
    let (gaps, _last) = gaps(&mut bench, asked, 30, &Reply::bundle(&bundle(4))).await;
    assert!(gaps.iter().all(|gap| *gap <= POLL_INTERVAL), "{gaps:?}");
    assert!(mean(&gaps[10..]) > POLL_INTERVAL / 4, "{gaps:?}");
    assert_eq!(bench.metric("stek_client_refused_bundles_total", "lower-revision"), 30.0);
}

#[tokio::test]
async fn an_upstream_that_does_not_wait_is_asked_once_a_poll_interval() {
    for reply in [Reply::not_modified(), Reply::bundle(&bundle(5))] {
        for wait in [None, Some(stek_core::time::Seconds::ZERO)] {
            let mut bench = Bench::new(1).await;
            let options = ClientOptions { wait, ..bench.options() };
            let (_follower, asked) = installed(&mut bench, &options).await;
            let (gaps, _last) = gaps(&mut bench, asked, 20, &reply).await;
            let allowed = POLL_INTERVAL * 9 / 10..=POLL_INTERVAL * 11 / 10;
            assert!(gaps.iter().all(|gap| allowed.contains(gap)), "{gaps:?}");
            assert!(gaps.windows(2).any(|pair| pair[0] != pair[1]), "without jitter: {gaps:?}");
        }
    }
}

#[tokio::test]
async fn an_upstream_that_waits_is_asked_again_at_once() {
    let mut bench = Bench::new(1).await;
    let options = bench.options();
    let (_follower, mut asked) = installed(&mut bench, &options).await;
    for _ in 0..3 {
        bench.clock.advance(55 * SECOND);
        let answered = asked.at + 55 * SECOND;
        asked.answer(Reply::not_modified());
        asked = bench.next().await;
        assert_eq!(asked.at, answered);
        assert_eq!(asked.header("prefer"), Some("wait=55"));
    }
}

#[tokio::test]
async fn one_change_after_another_is_followed_without_delay() {
    let mut bench = Bench::new(1).await;
    let options = bench.options();
    let (_follower, mut asked) = installed(&mut bench, &options).await;
    for revision in 6..20 {
        let at = asked.at;
        asked.answer(Reply::bundle(&bundle(revision)));
        asked = bench.next().await;
        assert_eq!((asked.at - at, asked.installed()), (50 * MILLI, Some(tag(1, revision))));
    }
}

#[tokio::test]
async fn plain_polling_never_asks_to_wait() {
    let mut bench = Bench::new(1).await;
    let options = no_wait(bench.options());
    let (_follower, asked) = installed(&mut bench, &options).await;
    assert_eq!((asked.header("prefer"), asked.installed()), (None, Some(tag(1, 5))));
}

#[tokio::test]
async fn retry_after_is_honoured_up_to_the_poll_interval() {
    for status in [429, 503] {
        let mut bench = Bench::new(1).await;
        let options = bench.options();
        let (_follower, asked) = installed(&mut bench, &options).await;
        let busy = Reply::status(status);
        let (two, asked) = gaps(&mut bench, asked, 3, &busy.clone().with("retry-after", "2")).await;
        assert!(two.iter().all(|gap| (2 * SECOND..=POLL_INTERVAL).contains(gap)), "{two:?}");
        let asked = bench.after(asked, Reply::not_modified()).await;
        let (long, asked) =
            gaps(&mut bench, asked, 3, &busy.clone().with("retry-after", "86400")).await;
        assert!(long.iter().all(|gap| *gap == POLL_INTERVAL), "{long:?}");
        let asked = bench.after(asked, Reply::not_modified()).await;
        let date = busy.with("retry-after", "Fri, 31 Dec 2027 23:59:59 GMT");
        let (none, _last) = gaps(&mut bench, asked, 1, &date).await;
        assert!(none[0] <= POLL_INTERVAL, "{none:?}");
        assert_eq!(bench.metric("stek_client_polls_total", "busy"), 7.0);
    }
}

#[tokio::test]
async fn upstreams_take_turns_until_one_answers() {
    let mut bench = Bench::new(3).await;
    let follower = bench.follow(&bench.options());
    let mut turns = vec![];
    for _ in 0..5 {
        let asked = bench.next().await;
        turns.push(asked.upstream);
        asked.answer(Reply::status(500));
    }
    let asked = bench.next().await;
    turns.push(asked.upstream);
    assert_eq!(turns, [0, 1, 2, 0, 1, 2]);
    asked.answer(Reply::bundle(&bundle(5)));
    for _ in 0..3 {
        let asked = bench.next().await;
        assert_eq!(asked.upstream, 2, "who answers is kept");
        bench.clock.advance(55 * SECOND);
        asked.answer(Reply::not_modified());
    }
    // A dead one is passed over like one that refuses.
    let asked = bench.next().await;
    drop(bench.servers.remove(2));
    drop(asked);
    let asked = bench.next().await;
    assert_eq!((asked.upstream, asked.installed()), (0, Some(tag(1, 5))));
    asked.answer(Reply::status(503).with("retry-after", "3600"));
    let asked = bench.next().await;
    assert_eq!(asked.upstream, 1);
    assert_eq!(follower.status().upstream.to_string(), bench.servers[0].url);
}

#[tokio::test]
async fn a_silent_upstream_is_given_up_ten_seconds_after_it_should_have_answered() {
    let mut bench = Bench::new(2).await;
    let follower = bench.follow(&bench.options());
    let first = bench.next().await;
    bench.clock.sleeper(10 * SECOND).await;
    bench.clock.advance(10 * SECOND);
    let second = bench.next().await;
    assert_eq!((first.upstream, second.upstream), (0, 1));
    second.answer(Reply::bundle(&bundle(5)));
    let poll = bench.next().await;
    bench.clock.sleeper(65 * SECOND).await;
    bench.clock.advance(64 * SECOND);
    tokio::task::yield_now().await;
    assert!(!bench.has_request());
    bench.clock.advance(SECOND);
    let next = bench.next().await;
    assert_eq!((poll.upstream, next.upstream), (1, 0));
    assert_eq!(bench.metric("stek_client_polls_total", "unreachable"), 2.0);
    let failure = follower.status().failure.unwrap();
    assert_eq!(failure.cause, "no answer within 65s");
}

#[tokio::test]
async fn a_step_of_fleet_time_is_not_followed_until_it_has_lasted_a_lead() {
    let mut bench = Bench::new(1).await;
    let options = no_wait(bench.options());
    let (follower, mut asked) = installed(&mut bench, &options).await;
    let fleet = follower.fleet();
    let began = asked.at;
    let hour = 3_600_000;
    let mut refusals = 0;
    while asked.at - began < 100 * SECOND {
        let honest = bench.clock.wall_millis();
        asked.answer(Reply::not_modified().with("stek-time", (honest + hour).to_string()));
        asked = bench.next().await;
        refusals += 1;
        if asked.at - began <= 100 * SECOND {
            let now = fleet.now_millis();
            assert!(now.abs_diff(bench.clock.wall_millis()) < 100, "{now}");
            assert_eq!(follower.bundles().borrow().as_ref().unwrap().keys().len(), 2);
        }
    }
    let counted = bench.metric("stek_client_fleet_time_step_refusals_total", "");
    assert_eq!(counted, f64::from(refusals));
    let honest = bench.clock.wall_millis();
    asked.answer(Reply::not_modified().with("stek-time", (honest + hour).to_string()));
    let mut bundles = follower.bundles();
    until(&mut bundles, |bundle| bundle.keys().is_empty()).await;
    assert!(fleet.now_millis() > T0 * 1000 + hour);
}

#[tokio::test]
async fn fleet_time_within_the_skew_is_followed_and_moves_the_erasure() {
    let mut bench = Bench::new(1).await;
    let options = bench.options();
    let (follower, asked) = installed(&mut bench, &options).await;
    bench.clock.advance(55 * SECOND);
    let ahead = |bench: &Bench| (bench.clock.wall_millis() + 10_000).to_string();
    let reply = Reply::not_modified().with("stek-time", ahead(&bench));
    asked.answer(reply);
    let asked = bench.next().await;
    assert_eq!(follower.fleet().now_millis(), bench.clock.wall_millis() + 10_000);
    bench.clock.advance(55 * SECOND);
    let reply = Reply::not_modified().with("stek-time", ahead(&bench));
    asked.answer(reply);
    let asked = bench.next().await;
    bench.clock.advance(55 * SECOND);
    let reply = Reply::not_modified().with("stek-time", ahead(&bench));
    asked.answer(reply);
    // 166 s have passed and fleet time is 10 s ahead, so the key that ends at 200 s has 24 s left.
    let _poll = bench.next().await;
    bench.clock.sleeper(24 * SECOND).await;
    bench.clock.advance(24 * SECOND);
    until(&mut follower.bundles(), |bundle| bundle.keys().len() == 1).await;
    assert_eq!(bench.metric("stek_client_fleet_time_step_refusals_total", ""), 0.0);
}

#[tokio::test]
async fn a_wrong_wall_clock_is_told_and_moves_nothing() {
    let mut bench = Bench::new(1).await;
    let options = no_wait(bench.options());
    let (follower, asked) = installed(&mut bench, &options).await;
    let honest = bench.clock.wall_millis();
    let fleet = follower.fleet().now_millis();
    bench.clock.set_wall_millis(honest - 3_600_000);
    let asked = bench.after(asked, Reply::status(500)).await;
    assert!((bench.metric("stek_client_clock_offset_seconds", "") + 3600.0).abs() <= 0.001);
    assert!(follower.fleet().now_millis() - fleet < 5_500, "only pauses have passed");
    bench.clock.set_wall_millis(follower.fleet().now_millis());
    let _asked = bench.after(asked, Reply::status(500)).await;
    // Wall and boot time are cut to milliseconds, each for itself.
    assert!(bench.metric("stek_client_clock_offset_seconds", "").abs() <= 0.001);
}

#[tokio::test]
async fn a_follower_that_stood_still_says_so() {
    let mut bench = Bench::new(1).await;
    let options = bench.options();
    let (_follower, asked) = installed(&mut bench, &options).await;
    let stalls = "stek_client_stalls_total";
    // A long-poll may take this long.
    bench.clock.advance(59 * SECOND);
    let asked = bench.after(asked, Reply::not_modified()).await;
    assert_eq!(bench.metric(stalls, ""), 0.0);
    bench.clock.advance(3600 * SECOND);
    drop(asked);
    bench.next().await.answer(Reply::not_modified());
    bench.metric_is(stalls, "", 1.0).await;
}

#[tokio::test]
async fn a_rotated_token_is_read_when_the_old_one_is_refused() {
    let mut bench = Bench::new(1).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let tokens = ["0a".repeat(32), "0b".repeat(32)].map(|digits| format!("stek_{digits}"));
    let bearer = tokens.clone().map(|token| format!("Bearer {token}"));
    std::fs::write(file.path(), &tokens[0]).unwrap();
    let options = ClientOptions { token: Some(file.path().into()), ..no_wait(bench.options()) };
    let (_follower, asked) = installed(&mut bench, &options).await;
    assert_eq!(asked.header("authorization"), Some(&*bearer[0]));

    std::fs::write(file.path(), format!("{}\n", tokens[1])).unwrap();
    let asked = bench.after(asked, Reply::not_modified()).await;
    assert_eq!(asked.header("authorization"), Some(&*bearer[0]), "not read without a reason");
    let at = asked.at;
    let asked = bench.after(asked, Reply::status(401)).await;
    assert_eq!((asked.header("authorization"), asked.at), (Some(&*bearer[1]), at));
    let asked = bench.after(asked, Reply::status(401)).await;
    assert!(asked.at > at, "asked again with a token that was refused");
    let at = asked.at;
    let asked = bench.after(asked, Reply::status(401)).await;
    assert!(asked.at > at, "the file holds the token that was refused");
    assert_eq!(bench.metric("stek_client_polls_total", "refused"), 2.0);

    std::fs::write(file.path(), "no token").unwrap();
    let asked = bench.after(asked, Reply::status(401)).await;
    assert_eq!(asked.header("authorization"), Some(&*bearer[1]), "the last good one is kept");
}

/// Lets go who reads a pipe when it is dropped, or a test that fails would never end.
struct Release(std::path::PathBuf);

impl Drop for Release {
    fn drop(&mut self) {
        drop(std::fs::File::options().read(true).write(true).open(&self.0));
    }
}

/// As on a network disk that does not answer.
#[tokio::test]
async fn a_file_that_cannot_be_read_to_its_end_does_not_end_the_polls() {
    let mut bench = Bench::new(1).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    let tokens = ["0a".repeat(32), "0b".repeat(32)].map(|digits| format!("stek_{digits}"));
    let bearer = tokens.clone().map(|token| format!("Bearer {token}"));
    std::fs::write(&path, &tokens[0]).unwrap();
    let options = ClientOptions { token: Some(path.clone()), ..no_wait(bench.options()) };
    let (_follower, asked) = installed(&mut bench, &options).await;

    // Whoever opens a pipe waits for one who writes.
    std::fs::remove_file(&path).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let _release = Release(path.clone());
    // So that its time-out is not that of the request.
    bench.clock.advance(SECOND);
    asked.answer(Reply::status(401));
    bench.clock.sleeper(10 * SECOND).await;
    bench.clock.advance(10 * SECOND);
    let asked = bench.next().await;
    assert_eq!(asked.header("authorization"), Some(&*bearer[0]));
    let at = asked.at;
    let asked = bench.after(asked, Reply::status(401)).await;
    assert!(asked.at < at + 10 * SECOND, "waited for it again");
    assert_eq!(asked.header("authorization"), Some(&*bearer[0]));

    // What comes in the end is used.
    let write = tokio::task::spawn_blocking(move || std::fs::write(&path, &tokens[1]));
    tokio::time::timeout(PATIENCE, write).await.unwrap().unwrap().unwrap();
    let mut asked = asked;
    while asked.header("authorization") != Some(&*bearer[1]) {
        asked = bench.after(asked, Reply::status(401)).await;
    }
}
