//! What every [`KeyStore`](crate::KeyStore) must do, as tests for whoever implements or wraps one.
//! Each function takes a store that is new and empty, and panics where it breaks a rule;
//! [`contract_tests!`](crate::contract_tests) makes a test of each.

#![expect(clippy::unwrap_used, reason = "a suite of tests: a broken rule is a panic")]

pub mod access;
mod commits;
mod feed;
pub mod fixture;
mod keys;
mod races;
mod ratchet;
mod trail;

pub use access::{grants_come_and_go, tokens_come_and_go};
pub use commits::{
    a_batch_applies_whole_or_not_at_all, a_deleted_keyset_leaves_a_tombstone, a_name_exists_once,
    a_new_store_is_empty, a_stale_commit_is_refused, each_commit_raises_the_revision_by_one,
    erasing_keeps_the_revision, unsound_commits_are_refused, what_is_created_is_read_again,
    what_is_due_is_done_once,
};
pub use feed::{
    changes_are_told_once, due_keysets_come_most_overdue_first, keysets_come_by_name_in_pages,
    no_commit_escapes_a_follower,
};
pub use keys::{
    a_key_and_a_secret_exist_once, ended_keys_are_remembered_up_to_a_limit,
    ending_twice_is_ending_once, history_outlives_the_keys, live_keys_have_a_limit,
    moves_stay_in_their_envelope, overlaps_are_refused, tiles_may_move_together,
};
pub use races::{
    one_of_two_changes_wins, one_of_two_creations_wins, one_seed_is_claimed,
    opposite_batches_do_not_block_each_other,
};
pub use ratchet::{
    a_restore_is_accepted_once, anchors_of_the_trail_are_sealed_anew, destruction_is_proven_once,
    keys_begin_under_the_live_seed, one_seed_is_offered, replicas_come_and_go, seals_are_exchanged,
    seeds_follow_each_other, who_could_unwrap_is_not_forgotten,
};
pub use trail::{
    audit_texts_are_cut, purging_forgets_what_ended, the_audit_trail_is_one_chain,
    the_trail_is_pruned_from_its_beginning,
};

/// Makes a `#[tokio::test]` of every rule. Takes an async function without arguments that returns
/// a new, empty store as `Arc<dyn KeyStore>`, and beside it whatever must outlive the test.
#[macro_export]
macro_rules! contract_tests {
    ($new_store:path) => {
        $crate::contract_tests! { $new_store;
            a_new_store_is_empty what_is_created_is_read_again a_name_exists_once
            a_stale_commit_is_refused a_batch_applies_whole_or_not_at_all
            each_commit_raises_the_revision_by_one erasing_keeps_the_revision
            what_is_due_is_done_once unsound_commits_are_refused a_deleted_keyset_leaves_a_tombstone
            overlaps_are_refused tiles_may_move_together a_key_and_a_secret_exist_once
            moves_stay_in_their_envelope ending_twice_is_ending_once history_outlives_the_keys
            ended_keys_are_remembered_up_to_a_limit live_keys_have_a_limit
            due_keysets_come_most_overdue_first keysets_come_by_name_in_pages
            changes_are_told_once no_commit_escapes_a_follower
            tokens_come_and_go grants_come_and_go
            the_audit_trail_is_one_chain audit_texts_are_cut purging_forgets_what_ended
            the_trail_is_pruned_from_its_beginning
            one_of_two_changes_wins one_of_two_creations_wins one_seed_is_claimed
            opposite_batches_do_not_block_each_other
            seeds_follow_each_other one_seed_is_offered keys_begin_under_the_live_seed
            replicas_come_and_go who_could_unwrap_is_not_forgotten destruction_is_proven_once
            seals_are_exchanged
            anchors_of_the_trail_are_sealed_anew a_restore_is_accepted_once
        }
    };
    ($new_store:path; $($rule:ident)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
        async fn $rule() {
            let (store, _guard) = $new_store().await;
            $crate::contract::$rule(store).await;
        }
    )*};
}
