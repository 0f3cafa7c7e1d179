//! How one manager learns of what another has committed.

use std::time::Duration;

use stek_wire::admin::PolicyDocument;

use crate::fixture::{Site, eventually, name, soon};

#[tokio::test]
async fn word_of_a_commit_is_followed_at_once_and_lost_word_within_five_seconds() {
    let site = Site::new();
    let custody = site.claim("ratchet").await;
    let (one, other) = (site.start_with(custody.clone()), site.start_with(custody));
    one.until(|_| true).await;
    other.until(|_| true).await;
    let knows = |keyset: &str| other.published().keysets.contains_key(&name(keyset));

    // No time passes: only word can have done it.
    one.create("first", PolicyDocument::default()).await;
    assert!(!knows("first"));
    site.store.word.send_replace(Some(one.published().revision));
    soon(eventually(|| knows("first"))).await;

    // Word that was missed says so by naming no revision.
    one.create("second", PolicyDocument::default()).await;
    site.store.word.send_replace(None);
    soon(eventually(|| knows("second"))).await;

    // Lost altogether.
    one.create("third", PolicyDocument::default()).await;
    assert!(!knows("third"));
    site.clock.advance(Duration::from_secs(5));
    soon(eventually(|| knows("third"))).await;
    one.stop().await;
    other.stop().await;
}
